# Sourced after lib.sh by the scripts whose CPUs refuse to go offline.
#
# On these kernels, CPUs that go while SCHED_DEADLINE tasks live leave wrong sums of bandwidth behind: such a script runs
# last of its guest.

# Starts tasks, each of which reserves 87 % of a CPU and sleeps; leaves them in $tasks. Usage: reserve COUNT [SECONDS]
reserve() {
    tasks=()
    for _ in $(seq "$1"); do
        chrt --deadline --sched-runtime 8700000 --sched-deadline 10000000 --sched-period 10000000 0 sleep infinity &
        tasks+=($!)
    done
    expect_within "${2:-20}" sh -c "[ \$(ps -eo cls,s,comm | grep -c 'DLN S sleep') = $1 ]"
}

# Ends them.
unreserve() {
    kill "${tasks[@]}"
    wait "${tasks[@]}" || true
}

# Fails unless a text tells that a CPU was refused, for which tasks, and that all is undone. Usage: expect_refused CPU TEXT
expect_refused() {
    expect_in "cannot take CPU $1 offline: Device or resource busy, held by " "$2"
    for task in "${tasks[@]}"; do expect_in "sleep[$task]" "$2"; done
    expect_in "; all changes undone" "$2"
}
