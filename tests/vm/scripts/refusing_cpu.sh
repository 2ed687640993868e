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

# Usage: refusing_cpu.sh [TASKS [CPU]]; with so many tasks, that CPU is the first to be refused.
step "what ${1:-8} tasks reserve, the CPUs that are left cannot carry: CPU ${2:-2} is refused"
reserve "${1:-8}"
refuse 69
expect_refusal "${2:-2}"
free
restore_yaml
