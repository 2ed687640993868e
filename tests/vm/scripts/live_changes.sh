# Reload and restart touch only the difference; whatever comes at once or in between, one consistent pool stands.
# For a machine of one node with four cores of two threads.
. ./lib.sh
before=$(snapshot)
pages=$NODE/node0/hugepages/hugepages-2048kB
udevadm monitor --kernel --subsystem-match=cpu >uevents &
udevadm=$!
expect_within 20 grep -q KERNEL uevents

# Prints the uevents of CPUs since it was last called: `offline cpu4`, one a line. Each call ends with an event of its
# own, which comes after all that were before it.
told() {
    local mark
    mark=$(($(cat marks) + 1))
    echo $mark >marks
    echo change >$CPU/cpu0/uevent
    expect_within 20 sh -c "[ \$(grep -c ' change .*/cpu0 ' uevents) = $mark ]"
    sed -n 's|^KERNEL\[.*\] \([a-z]*\)  */devices/system/cpu/\(cpu[0-9]*\) .*|\1 \2|p' uevents |
        awk -v mark=$mark '/change/ { seen++; next } seen == mark - 1'
}
echo 0 >marks

# Fails unless exactly these uevents came since the last time. Usage: expect_uevents WHEN [EVENT…]
expect_uevents() { expect_same "$(printf '%s\n' "${@:2}")" "$(told)" "uevents $1"; }

# Records all values that files have from now on, as one line each time that one changes. Usage: record FILE…
record() {
    python3 watch_files.py "$@" >seen &
    recorder=$!
    expect_within 20 grep -q . seen
}
recorded() {
    kill $recorder
    wait $recorder || true
    cat seen
}

# Fails unless the service is ready with exactly this pool. Usage: expect_pool CPUS ONLINE PAGES WHEN
expect_pool() {
    expect_machine "$(with_pool "$before" "$2" 0 "$3")" "$4"
    expect_in "pool ready: CPUs $1 " "$(sentence)"
    expect_equal "$3" "$(pool nodes.0.hugepages.0.free)" "pages free for leases $4"
    expect_equal "active 0" "$(unit ActiveState) $(unit NRestarts)" "state and restarts $4"
}

is_stopping() { [ "$(unit ActiveState)" = deactivating ]; }

# Starts the service without waiting, and returns while it takes pages.
begin_start() {
    systemctl start --no-block $UNIT
    expect_within 60 test -s $LEDGER
    expect_equal activating "$(unit ActiveState)" "state while it starts"
}

step "two starts at once, and another allocator by hand, which does not wait to take the place of the service"
write_yaml "memory_mib: 64" "cpu_count: 2"
systemctl start $UNIT &
one=$!
systemctl start $UNIT &
wait $one
wait $!
expect_pool 6-7 0-5 32 "after two starts"
expect_uevents "of two starts" "offline cpu6" "offline cpu7"
pid=$(unit MainPID)
expect_exit 69 ali-enclaves-allocator serve
expect_in "another allocator holds /run/ali-enclaves/lock; nothing was changed" "$said"

step "20 reloads: no uevent, no counter moves, no descriptor stays"
record $pages/{nr,free}_hugepages
open_files() { find "/proc/$pid/fd" -mindepth 1 -printf '%l\n' | sort; }
files=$(open_files)
ledger=$(stat --format %i:%z $LEDGER)
expect_exit 0 systemctl reload $UNIT
python3 varlink.py reloads 19
expect_uevents "of 20 reloads"
expect_equal "$ledger" "$(stat --format %i:%z $LEDGER)" "the ledger's file"
expect_same "$files" "$(open_files)" "open files"

step "a reload that grows by a core takes that core offline, and nothing else"
write_yaml "memory_mib: 64" "cpu_count: 4"
systemctl reload $UNIT
expect_pool 4-7 0-3 32 "with a core more"
expect_uevents "of the growth" "offline cpu4" "offline cpu5"
expect_equal "32 0" "$(recorded)" "pages, free pages all the time"

step "a restart with more memory and a core less adds that many pages, and brings that core online"
record $pages/nr_hugepages
write_yaml "memory_mib: 256" "cpu_count: 2"
systemctl restart $UNIT
expect_pool 6-7 0-5 128 "with more memory and a core less"
expect_uevents "of the restart" "online cpu4" "online cpu5"
expect_same $'32\n128' "$(recorded)" "the pages all the time"

step "start during stop"
pid=$(unit MainPID)
systemctl stop --no-block $UNIT
expect_within 5 is_stopping
systemctl start $UNIT
[ "$(unit MainPID)" != "$pid" ] || fail "the same process runs"
expect_pool 6-7 0-5 128 "after the start during the stop"

step "stop during start"
stop
expect_machine "$before" "after stop"
begin_start
stop
expect_machine "$before" "after the stop during the start"

step "restart during start"
begin_start
systemctl restart $UNIT
expect_pool 6-7 0-5 128 "after the restart during the start"

step "stop"
stop
expect_machine "$before" "after stop"
kill $udevadm
wait $udevadm || true
restore_yaml
