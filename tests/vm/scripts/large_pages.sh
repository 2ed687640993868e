# A pool of 1G pages.
. ./lib.sh
before=$(snapshot)

step "start, with 1000 MiB asked: one page"
write_yaml "memory_mib: 1000" "cpu_count: 2" "hugepage_size: 1G"
start
expect_machine "$(with_pool "$before" 0-1,4-7 0 1 1048576)" "with the pool"
expect_equal "pool ready: CPUs 2-3 (1 core) on node 0, 1024 MiB in 1×1G; no leases" "$(sentence)" "the sentence"
expect_equal 1 "$(pool nodes.0.hugepages.1.free)" "pages free for leases"

step "stop"
stop
expect_machine "$before" "after stop"
