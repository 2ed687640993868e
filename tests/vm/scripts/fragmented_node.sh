# A node whose memory is in pieces grants only some of the pages: all is undone, other programs' pages untouched.
. ./lib.sh
found=$(snapshot)
unevictable=$(</proc/sys/vm/compact_unevictable_allowed)

step "others have most of node 0 and some of node 1, idle and in use"
set_pages 0 800
set_pages 1 150
for node in 0 1; do hold $node 50; done
expect_equal "750 100" "$(counter 0 free_hugepages) $(counter 1 free_hugepages)" "idle pages"

step "the rest of node 0 is in pieces that compaction cannot move"
echo 3 >/proc/sys/vm/drop_caches
echo 0 >/proc/sys/vm/compact_unevictable_allowed
free_mib() { awk '/MemFree/ { print int($4 / 1024) }' $NODE/node0/meminfo; }
python3 hugepages.py fragment 0 $(($(free_mib) - 60)) >pieces &
pieces=$!
expect_within 120 grep -qx held pieces
before=$(snapshot)
echo "free on node 0: $(free_mib) MiB"

step "start asks for two thirds of what is free"
write_yaml "memory_mib: $(($(free_mib) * 2 / 3))" "cpu_pool: 2-3" "host_memory_mib: 64"
refuse 69
[[ $said =~ cannot\ reserve:\ kernel\ granted\ ([0-9]+)\ of\ [0-9]+\ 2M\ pages\ on\ node\ 0\;\ all\ changes\ undone ]] ||
    fail "said: $said"
echo "$said"
[ "${BASH_REMATCH[1]}" -gt 0 ] || fail "no page was granted, so none had to be given back"
expect_machine "$before" "after the short grant"

kill $pieces
wait $pieces || true
echo "$unevictable" >/proc/sys/vm/compact_unevictable_allowed
let_go
for node in 0 1; do set_pages $node 0; done
expect_machine "$found" "in the end"
restore_yaml
