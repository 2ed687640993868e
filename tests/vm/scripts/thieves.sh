# A program that maps every free hugepage gets every page but the pool's, whatever node it is bound to.
. ./lib.sh
found=$(snapshot)
set_pages 1 20
before=$(snapshot)

step "start on node 0; 20 pages of others lie idle on node 1"
write_yaml "memory_mib: 64" "cpu_pool: 2-3"
start
with=$(with_pool "$before" 0-1,4-7 0 32)
expect_machine "$with" "with the pool"

step "thieves"
expect_equal 20 "$(steal)" "pages that a thief gets"
expect_equal 20 "$(steal 1)" "pages that a thief bound to node 1 gets"
expect_equal 0 "$(steal 0)" "pages that a thief bound to the pool's node gets"

step "with one page to spare on the pool's node, the same thief gets that one"
set_pages 0 33
expect_equal 1 "$(steal 0)" "pages that a thief bound to the pool's node gets"
expect_equal 21 "$(steal)" "pages that a thief gets"
set_pages 0 32
expect_machine "$with" "after the thieves"
expect_equal ready "$(pool state)" "state"
expect_equal 32 "$(pool nodes.0.hugepages.0.free)" "pages free for leases"

step "stop"
stop
expect_machine "$before" "after stop"
set_pages 1 0
expect_machine "$found" "in the end"
restore_yaml
