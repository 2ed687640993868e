# kill -9 of the running service: it comes back by itself and finds its pool; not one CPU or page moved meanwhile.
. ./lib.sh
before=$(snapshot)
write_yaml "memory_mib: 64" "cpu_pool: 2-3"
start
with=$(with_pool "$before" 0-1,4-7 0 32)
expect_machine "$with" "with the pool"

step "those who watch: uevents, counters, a thief"
udevadm monitor --kernel --subsystem-match=cpu >uevents &
udevadm=$!
python3 watch_files.py $CPU/online $NODE/node0/hugepages/hugepages-2048kB/{nr,free}_hugepages >seen &
watcher=$!
python3 hugepages.py spin taken &
thief=$!
expect_within 20 grep -q KERNEL uevents
expect_within 20 grep -q . seen
expect_within 20 grep -q spinning taken

step "kill -9"
first=$(unit MainPID)
end=$(journal_end)
kill -9 "$first"
expect_within 60 sh -c "[ \$(systemctl show --property NRestarts --value $UNIT) = 1 ]"
expect_within 60 systemctl is-active $UNIT
[ "$(unit MainPID)" != "$first" ] || fail "the same process runs"
expect_in "pool ready: CPUs 2-3 (1 core) on node 0, 64 MiB in 32×2M" "$(journal_after "$end")"
expect_equal ready "$(pool state)" "state"
expect_machine "$with" "after kill -9"

step "nothing flickered"
kill $udevadm $watcher $thief
wait $udevadm $watcher $thief || true
expect_equal "" "$(sed -n '/^KERNEL\[/p' uevents)" "uevents of CPUs"
expect_equal "0-1,4-7 32 0" "$(<seen)" "online CPUs, pages, free pages all the time"
expect_equal spinning "$(<taken)" "what the thief took"

step "stop"
stop
expect_machine "$before" "after stop"
restore_yaml
