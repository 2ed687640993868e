# Surplus pages that other programs use come and go with nr_overcommit_hugepages, as if we were not there.
. ./lib.sh
overcommit=/sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages
found=$(snapshot)
echo 100 >$overcommit
set_pages 0 20
hold 0 50
expect_equal 30 "$(counter 0 surplus_hugepages)" "surplus pages of node 0"
before=$(snapshot)

step "start: the pool is on the same node"
write_yaml "memory_mib: 64" "cpu_pool: 2-3"
start
expect_equal 82 "$(counter 0 nr_hugepages)" "pages of node 0"
expect_equal 0 "$(counter 0 free_hugepages)" "free pages of node 0"
expect_equal 32 "$(pool nodes.0.hugepages.0.free)" "pages free for leases"
expect_equal 50 "$(pool nodes.0.hugepages.0.others_total)" "pages of others"
expect_equal ready "$(pool state)" "state"

step "stop: 30 of the 50 are surplus again"
stop
expect_machine "$before" "after stop"

let_go
expect_equal 20 "$(counter 0 nr_hugepages)" "pages of node 0 when nobody uses the surplus"
set_pages 0 0
echo 0 >$overcommit
expect_machine "$found" "in the end"
