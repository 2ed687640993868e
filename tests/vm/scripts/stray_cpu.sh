# A CPU of the pool that somebody brings online shows at once, by its event and not by the timer; restart repairs it.
. ./lib.sh
before=$(snapshot)
write_yaml "memory_mib: 16" "cpu_pool: 2-3"
start
with=$(with_pool "$before" 0-1,4-7 0 8)
expect_machine "$with" "with the pool"

# The timer looks when the service is ready, and every 30 s from then.
next_look=$(($(unit ActiveEnterTimestampMonotonic) / 1000000 + 30))
uptime_s() { cut -d. -f1 /proc/uptime; }

step "someone who watches"
ali-enclaves-allocator status --watch >watched &
watcher=$!
expect_within 20 grep -q "pool ready" watched

step "CPU 3 comes online"
[ "$(uptime_s)" -lt $((next_look - 5)) ] || fail "too slow: the timer could look first"
echo 1 >$CPU/cpu3/online
expect_within 5 grep -q "pool degraded" watched
expect_within 5 grep -q "drift: CPU 3: online" watched
[ "$(uptime_s)" -lt $next_look ] || fail "too slow: it may have been the timer"
kill $watcher
wait $watcher || true

step "status tells"
expect_in "pool degraded: CPUs 2-3" "$(sentence)"
expect_in "CPU 3: online: the host runs on them, wanted offline" "$(sentence)"
expect_exit 1 ali-enclaves-allocator status
expect_in "drift: CPU 3: online" "$said"

step "restart repairs it"
systemctl restart $UNIT
expect_machine "$with" "after the restart"
expect_equal "pool ready: CPUs 2-3 (1 core) on node 0, 16 MiB in 8×2M; no leases" "$(sentence)" "the sentence"

step "stop"
stop
expect_machine "$before" "after stop"
restore_yaml
