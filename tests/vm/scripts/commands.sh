# What every operation makes the machine run: the guard against a fork too many, each of which costs every user.
# Traced is what PID 1 starts, and all that comes of it; so not this script.
source ./lib.sh
source ./lease_lib.sh

TRACE=/sys/kernel/tracing
mount -t tracefs tracefs $TRACE
trap 'code=$?; umount $TRACE; at_exit $code' EXIT
echo 1 >$TRACE/options/event-fork
echo 1 >$TRACE/set_event_pid

# Prints the names of the programs that were run since the trace began, in order.
programs() { sed -n 's/.*sched_process_exec: filename=\([^ ]*\).*/\1/p' $TRACE/trace | xargs -r -n 1 basename | xargs; }
programs_are() { [ "$(programs)" = "$1" ]; }

# Fails unless a command makes the machine run just these programs; some come after it. Usage: expect_runs PROGRAMS COMMAND…
expect_runs() {
    echo >$TRACE/trace
    echo 1 >$TRACE/events/sched/sched_process_exec/enable
    "${@:2}"
    expect_within 15 programs_are "$1"
    sleep 2 # for one too many
    echo 0 >$TRACE/events/sched/sched_process_exec/enable
    expect_equal "$1" "$(programs)" "what is run by ${*:2}"
}

systemctl start "run-ali\\x2denclaves-evm.mount"

step "a start mounts once, and finds libudev once READY is said"
expect_runs "ali-enclaves-allocator mount ldconfig" start

step "a reload without a change runs nothing but itself"
expect_runs "ali-enclaves-allocator" systemctl reload $UNIT

step "a restart without a change mounts nothing"
expect_runs "ali-enclaves-allocator ldconfig" systemctl restart $UNIT

step "an offline lease is a scope, which nothing is run for"
expect_runs "" take web 2 64
expect_runs "" end web

step "nor is for an online lease, which is a slice, too"
expect_runs "" take web 2 64 --online
expect_runs "" end web
expect_whole

step "a stop unmounts once"
expect_runs "umount" stop
