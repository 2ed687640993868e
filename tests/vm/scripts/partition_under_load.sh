# Tasks move between cgroups all the time. On Linux 6.8 and later that and an isolated partition hang the machine.
source ./lib.sh
source ./lease_lib.sh

MOVERS=3
ROUNDS=3

move() {
    while :; do
        for to in moved-0 moved-1; do
            bash -c "echo \$BASHPID >/sys/fs/cgroup/$to/cgroup.procs" || true
        done
    done
}

before=$(snapshot)
start

step "leases come and go while tasks move"
mkdir /sys/fs/cgroup/moved-{0,1}
movers=()
for ((i = 0; i < MOVERS; i++)); do
    move &
    movers+=($!)
done
for ((round = 0; round < ROUNDS; round++)); do
    take web 2 64 --online
    expect_equal '[2, 3]' "$(lease allowed_cpus)" "CPUs that the holder may use, round $round"
    murder web
    expect_whole
done

step "and nothing is left of it"
kill "${movers[@]}"
wait "${movers[@]}" || true
for at in /sys/fs/cgroup/moved-{0,1}; do
    expect_within 60 rmdir $at
done
stop
expect_machine "$before" "after stop"
