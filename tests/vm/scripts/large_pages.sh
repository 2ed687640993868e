# A pool of 1G pages, for machines of at least 4 GiB per node. Not on node 0, of which the kernel itself uses a part.
. ./lib.sh
before=$(snapshot)

step "start, with 1000 MiB asked: one page"
write_yaml "memory_mib: 1000" "cpu_pool: 6-7" "hugepage_size: 1G"
start
expect_machine "$(with_pool "$before" 0-5 1 1 1048576)" "with the pool"
expect_equal "pool ready: CPUs 6-7 (1 core) on node 1, 1024 MiB in 1×1G; no leases" "$(sentence)" "the sentence"
expect_equal 1 "$(pool nodes.1.hugepages.1.free)" "pages free for leases"

step "stop"
stop
expect_machine "$before" "after stop"
restore_yaml
