# A CPU that refuses to go offline, because SCHED_DEADLINE tasks need it: all is undone, and the tasks are named.
# On these kernels, CPUs that go while such tasks live leave wrong sums of bandwidth behind: run this one last.
. ./lib.sh
before=$(snapshot)
write_yaml "memory_mib: 64" "cpu_pool: 2-3"

# Starts COUNT tasks, each of which reserves 87 % of a CPU and sleeps.
reserve() {
    tasks=()
    for _ in $(seq "$1"); do
        chrt --deadline --sched-runtime 8700000 --sched-deadline 10000000 --sched-period 10000000 0 sleep infinity &
        tasks+=($!)
    done
    expect_within 20 sh -c "[ \$(ps -eo cls,s,comm | grep -c 'DLN S sleep') = $1 ]"
}
free() {
    kill "${tasks[@]}"
    wait "${tasks[@]}" || true
}
expect_refusal() {
    expect_in "cannot take CPU $1 offline: Device or resource busy, held by " "$said"
    for task in "${tasks[@]}"; do expect_in "sleep[$task]" "$said"; done
    expect_in "; all changes undone" "$said"
    expect_in "stop it or change its policy (chrt)" "$said"
    expect_machine "$before" "after the refusal"
}

step "what 8 tasks reserve, 7 CPUs cannot carry: the first CPU is refused"
reserve 8
refuse 69
expect_refusal 2
free

step "tasks appear when the first CPU is offline, and the second is refused"
mkfifo wanted.yaml
ali-enclaves-allocator serve wanted.yaml >log 2>&1 &
daemon=$!
expect_within 60 [ -S /run/ali-enclaves/allocator.sock ]
strace --follow-forks --attach $daemon --output trace --trace write -P $CPU/cpu3/online \
    --inject=write:delay_enter=10s:when=1 2>attached &
expect_within 60 grep -q attached attached
cat $YAML >wanted.yaml
expect_within 60 grep -qx 0-1,3-7 $CPU/online
sleep 1
reserve 7
expect_equal 0-1,3-7 "$(<$CPU/online)" "online CPUs when the tasks are there"
status=0
wait $daemon || status=$?
said=$(<log)
echo "$said"
expect_equal 69 $status "exit status"
expect_refusal 3
free
