# kill -9 of the running service: it comes back by itself and finds its pool; not one CPU or page moved meanwhile, also
# where an enclave ends before it is back.
. ./lib.sh
. ./lease_lib.sh

# Kills the service, runs a command in the same moment, and waits until it is back. Usage: kill_service [COMMAND…]
kill_service() {
    local first
    first=$(unit MainPID)
    kill -9 "$first"
    "$@"
    expect_within 60 sh -c "[ \$(systemctl show --property NRestarts --value $UNIT) = 1 ]"
    expect_within 60 systemctl is-active $UNIT
    [ "$(unit MainPID)" != "$first" ] || fail "the same process runs"
}

# Watches CPUs, and numbers of node 0, until `expect_steady`. Usage: watch COUNTER…
watch() {
    udevadm monitor --kernel --subsystem-match=cpu >uevents &
    udevadm=$!
    python3 watch_files.py $CPU/online "${@/#/$NODE/node0/hugepages/hugepages-2048kB/}" >seen &
    watcher=$!
    expect_within 20 grep -q KERNEL uevents
    expect_within 20 grep -q . seen
}

# Ends the watch, which may have seen nothing but one state. Usage: expect_steady STATE
expect_steady() {
    kill $udevadm $watcher
    wait $udevadm $watcher || true
    expect_equal "" "$(sed -n '/^KERNEL\[/p' uevents)" "uevents of CPUs"
    expect_equal "$1" "$(<seen)" "online CPUs and numbers of pages all the time"
}

before=$(snapshot)
write_yaml "memory_mib: 64" "cpu_pool: 2-3"
start
with=$(with_pool "$before" 0-1,4-7 0 32)
expect_machine "$with" "with the pool"

step "kill -9, and a thief"
watch nr_hugepages free_hugepages
python3 hugepages.py spin taken &
thief=$!
expect_within 20 grep -q spinning taken
end=$(journal_end)
kill_service
expect_in "pool ready: CPUs 2-3 (1 core) on node 0, 64 MiB in 32×2M" "$(journal_after "$end")"
expect_equal ready "$(pool state)" "state"
expect_machine "$with" "after kill -9"
kill $thief
wait $thief || true
expect_equal spinning "$(<taken)" "what the thief took"
expect_steady "0-1,4-7 32 0"

step "kill -9, and an enclave that outlived a stop ends before the service is back: who waits for it takes nothing"
take web 2 32
waiting=ali-enclaves-give-back@$(lease id).service
systemctl stop $UNIT
start
expect_equal active "$(systemctl is-active "$waiting")" "what waits for the enclave"
watch nr_hugepages
kill_service murder web
expect_within 60 journalctl --quiet --unit "$waiting" --grep "the service runs and gives back by itself"
expect_whole
expect_machine "$with" "after the enclave"
expect_steady "0-1,4-7 32"

step "stop"
stop
expect_machine "$before" "after stop"
restore_yaml
