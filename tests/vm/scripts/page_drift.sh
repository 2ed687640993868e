# Someone writes nr_hugepages below what is ours, while all of it is held: the kernel calls the difference surplus.
# The slow timer notices, status says who has what, restart repairs it, and stop takes nothing of what others use.
. ./lib.sh
overcommit=/sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages
write_number() { echo "$1" >$NODE/node0/hugepages/hugepages-2048kB/nr_hugepages; }
found=$(snapshot)
set_pages 0 10
hold 0 6
write_yaml "memory_mib: 64" "cpu_pool: 2-3"

# Usage: expect_pages ALL SURPLUS FREE WHEN
expect_pages() {
    expect_equal "$1 $2 $3" \
        "$(counter 0 nr_hugepages) $(counter 0 surplus_hugepages) $(counter 0 free_hugepages)" "pages of node 0 $4"
}

# Prints how often the service has fallen asleep, all its threads together.
naps() { awk '/^voluntary_ctxt_switches/ { sum += $2 } END { print sum }' /proc/"$(unit MainPID)"/task/*/status; }

is_degraded() { [[ $(sentence) == "pool degraded:"* ]]; }

# Fails unless the service says that so many pages are persistent, whose the pages are, and lends nothing.
expect_drift() {
    local drift="nr_hugepages of node 0 (2M): $1 without surplus, wanted at least 32"
    expect_in "pool degraded: CPUs 2-3 (1 core) on node 0, 64 MiB in 32×2M; no leases; $drift" "$(sentence)"
    expect_exit 1 ali-enclaves-allocator status
    expect_in "drift: $drift" "$said"
    expect_in "pool 32 of 32 (0 leased, 32 free for enclaves); other programs $2 (0 free)" "$said"
    expect_exit 1 python3 varlink.py call Acquire '{"cpu_count": 2, "memory_mib": 16, "online": false}'
    expect_in "PoolNotReady" "$said"
    expect_in "$drift" "$said"
}

# Restarts the service and fails unless all of the pool is persistent again.
repair() {
    systemctl restart $UNIT
    expect_equal ready "$(pool state)" "state after the restart"
    expect_equal 32 "$(pool nodes.0.hugepages.0.free)" "pages free for leases"
}

step "someone writes 20 of 42: the 4 idle ones of others go, and all others are in use"
start
expect_pages 42 0 4 "with the pool"
before=$(naps)
end=$(journal_end)
write_number 20
expect_pages 38 18 0 "after 20 is written"
expect_within 40 is_degraded
naps=$(($(naps) - before))
echo "the service fell asleep $naps times until it noticed"
[ $naps -lt 20 ] || fail "the service woke $naps times to notice"
expect_within 10 journal_has "$end" "nr_hugepages of node 0 (2M): 20 without surplus, wanted at least 32 (repair: "
expect_drift 20 6
repair
expect_pages 38 0 0 "after the restart"

step "someone writes 0; an event of any CPU makes the service look at once"
write_number 0
expect_pages 38 38 0 "after 0 is written"
echo change >$CPU/cpu0/uevent
expect_within 10 is_degraded
expect_drift 0 6
repair
expect_pages 38 0 0 "after the restart"

step "again, and stop without a repair: others keep what they use"
write_number 0
stop
expect_pages 6 6 0 "after stop"

step "with overcommit: others take surplus pages before and after"
echo 60 >$overcommit
set_pages 0 6
start
hold 0 10
expect_pages 48 10 0 "with the pool and 10 more of others"
write_number 0
expect_pages 48 48 0 "after 0 is written"
hold 0 5
echo change >$CPU/cpu0/uevent
expect_within 10 is_degraded
expect_drift 0 21
repair
expect_pages 53 0 0 "after the restart"
stop
expect_pages 21 21 0 "after stop"
let_go
expect_pages 0 0 0 "when nobody uses any"
echo 0 >$overcommit
expect_machine "$found" "in the end"
restore_yaml
