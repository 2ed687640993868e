# Surplus pages that other programs use come and go with nr_overcommit_hugepages, as if we were not there.
. ./lib.sh
overcommit=/sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages
found=$(snapshot)
echo 100 >$overcommit
set_pages 0 20
hold 0 50
expect_equal 30 "$(counter 0 surplus_hugepages)" "surplus pages of node 0"

# Fails unless node 0 has so many pages, the surplus among them; none is ever free. Usage: expect_pages ALL SURPLUS WHEN
expect_pages() {
    expect_equal "$1 $2 0" \
        "$(counter 0 nr_hugepages) $(counter 0 surplus_hugepages) $(counter 0 free_hugepages)" "pages of node 0 $3"
}

step "start: the pool is on the same node"
write_yaml "memory_mib: 64" "cpu_pool: 2-3"
start
expect_pages 82 0 "with the pool"
expect_equal 32 "$(pool nodes.0.hugepages.0.free)" "pages free for leases"
expect_equal 50 "$(pool nodes.0.hugepages.0.others_total)" "pages of others"
expect_equal ready "$(pool state)" "state"

step "others come to use 10 surplus pages more"
hold 0 10
expect_pages 92 10 "with 10 more"
with=$(snapshot)

step "reload for more, which fails when the pages are there: what became persistent is surplus again"
# The kernel never denies the pool a page here, for it may make a surplus one: so strace denies it.
strace --follow-forks --attach "$(unit MainPID)" --output trace --trace fallocate -P /run/ali-enclaves/banks/bank1/hold \
    --inject=fallocate:error=ENOSPC 2>attached &
strace=$!
expect_within 60 grep -q attached attached
write_yaml "memory_mib: 128" "cpu_pool: 2-3"
end=$(journal_end)
expect_exit 1 systemctl reload $UNIT
expect_in "got 0 of 64 2M pages on node 0; all changes undone" "$(journal_after "$end")"
expect_machine "$with" "after the failure"
expect_equal degraded "$(pool state)" "state, for the file was refused"
kill $strace
wait $strace || true

step "restart for as much, now for good"
systemctl restart $UNIT
expect_pages 124 0 "with the bigger pool"
expect_equal 60 "$(pool nodes.0.hugepages.0.others_total)" "pages of others"
expect_equal ready "$(pool state)" "state"

step "stop: 40 of the 60 are surplus again"
stop
expect_pages 60 40 "after stop"
expect_equal "${found%%$'\n'*}" "online $(<$CPU/online)" "online CPUs after stop"

step "while others use surplus pages on one node, stop gives all back that the pool had on another"
with=$(snapshot)
write_yaml "memory_mib: 64" "cpu_pool: 6-7"
start
expect_equal 32 "$(counter 1 nr_hugepages)" "pages of node 1"
stop
expect_machine "$with" "after stop"

step "a pool over both nodes, whose own pages are surplus for a moment when it goes"
write_yaml "memory_mib: 64" "cpu_pool: 2-7" "max_enclaves: 2"
start
expect_equal 32 $(($(pool nodes.0.hugepages.0.free) + $(pool nodes.1.hugepages.0.free))) "pages free for leases"
expect_equal 0 "$(counter 0 surplus_hugepages)" "surplus pages of node 0, which are persistent while the pool has some there"
stop
expect_machine "$with" "after stop"

let_go
expect_equal 20 "$(counter 0 nr_hugepages)" "pages of node 0 when nobody uses any"
set_pages 0 0
echo 0 >$overcommit
expect_machine "$found" "in the end"
restore_yaml
