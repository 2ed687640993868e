# Other programs' pages, idle and in use on each node, are not ours to count or to touch.
# Usage: other_programs.sh [2M | 1G]; 1G is for machines of at least 6 GiB per node.
. ./lib.sh
size=${1:-2M}
case $size in
    2M) kib=2048 entry=0 idle=100 used=50 small=64 big=128 ;;
    1G) kib=1048576 entry=1 idle=1 used=1 small=1024 big=1024 ;;
    *) fail "no such size: $size" ;;
esac
found=$(snapshot)

for node in 0 1; do
    set_pages $node $((idle + used)) $kib
    hold $node $used $kib
    expect_equal $idle "$(counter $node free_hugepages $kib)" "idle pages of node $node"
done
before=$(snapshot)

# Fails unless the machine has a pool of so many MiB, beside all that the others have.
expect_pool() { expect_machine "$(with_pool "$before" 0-5 1 $(($1 * 1024 / kib)) $kib)" "$2"; }

step "start adds ours to theirs"
write_yaml "memory_mib: $small" "cpu_pool: 6-7" "hugepage_size: $size"
start
expect_pool $small "with the pool"
expect_equal $((idle + used)) "$(pool nodes.1.hugepages.$entry.others_total)" "pages of others in GetPool"
expect_equal $idle "$(pool nodes.1.hugepages.$entry.others_free)" "idle pages of others in GetPool"

step "restart, for $big MiB"
write_yaml "memory_mib: $big" "cpu_pool: 6-7" "hugepage_size: $size"
systemctl restart $UNIT
expect_pool $big "after the restart"

step "reload for more than there is: a failure"
write_yaml "memory_mib: 100000" "cpu_pool: 6-7" "hugepage_size: $size"
expect_exit 1 systemctl reload $UNIT
expect_pool $big "after the failure"

step "stop"
stop
expect_machine "$before" "after stop"

let_go
for node in 0 1; do set_pages $node 0 $kib; done
expect_machine "$found" "in the end"
