# A restart with the pool on the other node leaves nothing on the old one; a broken file never costs the pool.
. ./lib.sh
before=$(snapshot)

step "start on node 0"
write_yaml "memory_mib: 64" "cpu_pool: 2-3"
start
expect_machine "$(with_pool "$before" 0-1,4-7 0 32)" "with the pool on node 0"

step "restart on node 1"
write_yaml "memory_mib: 128" "cpu_pool: 6-7"
systemctl restart $UNIT
elsewhere=$(with_pool "$before" 0-5 1 64)
expect_machine "$elsewhere" "with the pool on node 1"
expect_equal 1 "$(findmnt --raw --noheadings --types hugetlbfs --output TARGET | grep -c /run/ali-enclaves/)" "banks"

step "restart with a broken file: the pool stays, while a thief spins"
python3 hugepages.py spin taken &
thief=$!
expect_within 30 grep -q spinning taken
write_yaml "# half an edit" "memory_mib: 64" "cpu_pool: 2-"
end=$(journal_end)
systemctl restart $UNIT
expect_machine "$elsewhere" "after the restart"
expect_equal degraded "$(pool state)" "state"
expect_equal "[6, 7]" "$(pool cpus)" "CPUs of the pool"
expect_in "$YAML:3:11: cpu_pool: " "$(sentence)"
expect_in "$YAML:3:11: cpu_pool: " "$(journal_after "$end")"
expect_exit 1 ali-enclaves-allocator status
expect_in "pool degraded: CPUs 6-7" "$said"

step "reload with a broken file fails, and changes nothing"
expect_exit 1 systemctl reload $UNIT
expect_machine "$elsewhere" "after the reload"

step "no thief got a page, neither then nor now"
kill $thief
wait $thief || true
expect_equal spinning "$(<taken)" "what the spinning thief took"
expect_equal 0 "$(steal)" "pages that a thief gets now"

step "reload with a good file: a smaller pool, all is well"
write_yaml "memory_mib: 32" "cpu_pool: 6-7"
systemctl reload $UNIT
expect_machine "$(with_pool "$before" 0-5 1 16)" "with the smaller pool"
expect_equal "pool ready: CPUs 6-7 (1 core) on node 1, 32 MiB in 16×2M; no leases" "$(sentence)" "the sentence"

step "stop"
stop
expect_machine "$before" "after stop"
restore_yaml
