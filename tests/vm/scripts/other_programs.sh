# Other programs' pages, idle and in use on each node, are not ours to count or to touch.
# Usage: other_programs.sh [2M | 1G]; 1G is for machines of at least 6 GiB per node.
. ./lib.sh
size=${1:-2M}
case $size in
    2M) kib=2048 entry=0 idle=100 used=50 small=64 big=128 more=192 ;;
    1G) kib=1048576 entry=1 idle=1 used=1 small=1024 big=1024 more=2048 ;;
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

step "reload for more than there is: a failure before anything is changed"
write_yaml "memory_mib: 100000" "cpu_pool: 6-7" "hugepage_size: $size"
expect_exit 1 systemctl reload $UNIT
expect_pool $big "after the failure"

step "reload for $more MiB: a failure when the pages are there, for others take their idle ones and one of ours"
# The service stops at the first page of its new bank, and goes on when the others have taken theirs.
systemctl service-watchdogs no
strace --follow-forks --attach "$(unit MainPID)" --output trace --trace fallocate \
    --inject=fallocate:signal=SIGSTOP 2>attached &
strace=$!
expect_within 60 grep -q attached attached
write_yaml "memory_mib: $more" "cpu_pool: 6-7" "hugepage_size: $size"
end=$(journal_end)
systemctl reload $UNIT 2>/dev/null &
reload=$!
expect_within 60 grep -q 'stopped by SIGSTOP' trace
wanted=$((more * 1024 / kib))
expect_equal $((idle + used + wanted)) "$(counter 1 nr_hugepages $kib)" "pages of node 1 before the failure"
python3 hugepages.py hold 1 $((idle + 1)) $kib >taken &
thief=$!
expect_within 120 grep -qx held taken
kill $strace
wait $strace || true
systemctl kill --kill-whom main --signal CONT $UNIT
status=0
wait $reload || status=$?
systemctl service-watchdogs yes
expect_equal 1 $status "exit status of the reload"
expect_in "got $((wanted - 1)) of $wanted $size pages on node 1; all changes undone" "$(journal_after "$end")"
expect_equal $((big * 1024 / kib)) "$(pool nodes.1.hugepages.$entry.free)" "pages free for leases"
expect_equal degraded "$(pool state)" "state, for the file was refused"
kill $thief
wait $thief || true
expect_pool $big "after the failure, when the thief is gone"

step "stop"
stop
expect_machine "$before" "after stop"

let_go
for node in 0 1; do set_pages $node 0 $kib; done
expect_machine "$found" "in the end"
restore_yaml
