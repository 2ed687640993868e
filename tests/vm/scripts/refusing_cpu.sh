# A CPU that refuses to go offline: deadline tasks leave room for one CPU less, not for two. All is undone.
. ./lib.sh
before=$(snapshot)

step "7 tasks reserve 87 % of a CPU each: what 7 CPUs can carry and 6 cannot"
tasks=()
for _ in {1..7}; do
    chrt --deadline --sched-runtime 8700000 --sched-deadline 10000000 --sched-period 10000000 0 sleep infinity &
    tasks+=($!)
done
expect_within 20 sh -c "[ \$(ps -eo cls,comm | grep -c 'DLN sleep') = 7 ]"

step "start takes CPU 2, and is refused CPU 3"
write_yaml "memory_mib: 64" "cpu_pool: 2-3"
python3 watch_counters.py $CPU/online >seen &
watcher=$!
expect_within 20 grep -q 0-7 seen
refuse 69
echo "$said"
expect_in "cannot take CPU 3 offline: Device or resource busy, held by " "$said"
for task in "${tasks[@]}"; do expect_in "sleep[$task]" "$said"; done
expect_in "; all changes undone" "$said"
expect_in "stop it or change its policy (chrt)" "$said"
expect_machine "$before" "after the refusal"
kill $watcher
wait $watcher || true
grep -q 0-1,3-7 seen || fail "CPU 2 never went offline: $(<seen)"

step "without those tasks the same start succeeds"
kill "${tasks[@]}"
wait "${tasks[@]}" || true
start
expect_machine "$(with_pool "$before" 0-1,4-7 0 32)" "with the pool"
stop
expect_machine "$before" "after stop"
