# What every operation makes the machine run: the guard against a fork too many, each of which costs every user.
# Traced is what PID 1 starts, and all that comes of it; so not this script.
source ./lib.sh
source ./lease_lib.sh

TRACE=/sys/kernel/tracing
mount -t tracefs tracefs $TRACE
trap 'code=$?; umount $TRACE; at_exit $code' EXIT
echo 1 >$TRACE/options/event-fork
echo 1 >$TRACE/set_event_pid

# Runs a command, and leaves in $said the names of the programs that were run meanwhile, in order.
traced() {
    echo >$TRACE/trace
    echo 1 >$TRACE/events/sched/sched_process_exec/enable
    "$@"
    sleep 2 # what comes after READY
    echo 0 >$TRACE/events/sched/sched_process_exec/enable
    said=$(sed -n 's/.*sched_process_exec: filename=\([^ ]*\).*/\1/p' $TRACE/trace | xargs --no-run-if-empty -n 1 basename | xargs)
}

step "a start mounts once, and finds libudev once READY is said"
traced start
expect_equal "ali-enclaves-allocator systemd-mount mount ldconfig" "$said" "run by a start"

step "a reload without a change runs nothing but itself"
traced systemctl reload $UNIT
expect_equal "ali-enclaves-allocator" "$said" "run by a reload"

step "a restart without a change mounts nothing"
traced systemctl restart $UNIT
expect_equal "busctl busctl ali-enclaves-allocator ldconfig" "$said" "run by a restart"

step "an offline lease is a scope, and nothing else"
traced take web 2 64
expect_equal "busctl" "$said" "run by Acquire"
traced end web
expect_equal "" "$said" "run by the end of its holder"

step "an online lease is a slice, too"
traced take web 2 64 --online
expect_equal "systemctl systemctl busctl" "$said" "run by Acquire, online"
traced end web
expect_equal "" "$said" "run by the end of its holder, online"
expect_whole

step "a stop unmounts once"
traced stop
expect_equal "busctl busctl systemctl systemctl systemctl systemd-umount umount" "$said" "run by a stop"
