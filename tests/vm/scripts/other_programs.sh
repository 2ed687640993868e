# Other programs' pages, 100 idle and 50 in use on each node, are not ours to count or to touch.
# Usage: other_programs.sh [IDLE USED KIB SIZE MEMORY_MIB BIGGER_MIB]
. ./lib.sh
idle=${1:-100} used=${2:-50} kib=${3:-2048} size=${4:-2M} small=${5:-64} big=${6:-128}
found=$(snapshot)
[ "$kib" = 2048 ] && entry=0 || entry=1

for node in 0 1; do
    set_pages $node $((idle + used)) "$kib"
    hold $node "$used" "$kib"
    expect_equal "$idle" "$(counter $node free_hugepages "$kib")" "idle pages of node $node"
done
before=$(snapshot)

step "start adds ours to theirs"
write_yaml "memory_mib: $small" "cpu_pool: 2-3" "hugepage_size: $size"
start
expect_machine "$(with_pool "$before" 0-1,4-7 0 $((small * 1024 / kib)) "$kib")" "with the pool"
expect_equal $((idle + used)) "$(pool nodes.0.hugepages.$entry.others_total)" "pages of others in GetPool"
expect_equal "$idle" "$(pool nodes.0.hugepages.$entry.others_free)" "idle pages of others in GetPool"

step "restart for more"
write_yaml "memory_mib: $big" "cpu_pool: 2-3" "hugepage_size: $size"
systemctl restart $UNIT
expect_machine "$(with_pool "$before" 0-1,4-7 0 $((big * 1024 / kib)) "$kib")" "with the bigger pool"

step "reload for more than there is: a failure"
write_yaml "memory_mib: 100000" "cpu_pool: 2-3" "hugepage_size: $size"
expect_exit 1 systemctl reload $UNIT
expect_machine "$(with_pool "$before" 0-1,4-7 0 $((big * 1024 / kib)) "$kib")" "after the failure"

step "stop"
stop
expect_machine "$before" "after stop"

let_go
for node in 0 1; do set_pages $node 0 "$kib"; done
expect_machine "$found" "in the end"
