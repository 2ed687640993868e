# 200 clients at once all get an answer.
. ./lib.sh
before=$(snapshot)
write_yaml "memory_mib: 16" "cpu_count: 2"
start

step "200 clients"
python3 varlink.py clients 200

step "stop"
stop
expect_machine "$before" "after stop"
restore_yaml
expect_exit 3 ali-enclaves-allocator status
expect_equal inactive "$(unit ActiveState)" "state after status"
