# What the service may not do, and that it still can tell that somebody keeps memory, though its mounts are its own.
. ./lib.sh
. ./lease_lib.sh
before=$(snapshot)
write_yaml "memory_mib: 16" "cpu_pool: 6-7"

step "it starts, lends and restarts without D-Bus, which early boot has not"
systemctl stop dbus.socket dbus.service
start
take web 2 8 --online
end web
expect_whole
systemctl restart $UNIT
expect_whole
systemctl start dbus.socket

step "it has the three capabilities that its unit names, no new ones, and a filter of system calls"
status() { sed -n "s/^$1:\t//p" /proc/"$(unit MainPID)"/status; }
for set in CapEff CapPrm CapBnd; do expect_equal 0000000000080003 "$(status $set)" $set; done
expect_equal 1 "$(status NoNewPrivs)" "no new privileges"
expect_equal 2 "$(status Seccomp)" "seccomp"

step "where it may write: its own directory, CPUs, nodes, cgroups; of what others see, it sees all but homes and devices"
inside() { nsenter --target "$(unit MainPID)" --mount -- "$@"; }
for file in /etc/x /usr/x /var/x /run/x /run/systemd/x /proc/sys/kernel/sysrq /sys/kernel/mm/ksm/run /sys/kernel/uevent_helper; do
    expect_exit 1 inside bash -c ">>$file"
    expect_in "Read-only file system" "$said"
done
for file in /run/ali-enclaves/lock $CPU/cpu1/online $NODE/node0/compact $NODE/node0/hugepages/hugepages-2048kB/nr_hugepages; do
    inside bash -c ">>$file"
done
expect_exit 1 inside test -e /dev/nvme0n1

step "why it keeps CAP_SYS_PTRACE: where /proc hides processes, holders would seem to have ended without it"
cat >look.py <<'PY'
import sys
from ali_enclaves_allocator.kernel.processes import LinuxProcesses
print("seen" if LinuxProcesses().holder(int(sys.argv[1]), 0, 0) else "ended")
PY
setpriv --reuid nobody --regid nogroup --clear-groups sleep infinity &
look() { setpriv --bounding-set="-all,$1" /usr/lib/ali-enclaves/bin/python3 -I look.py $!; }
mount -o remount,hidepid=invisible,gid=1 /proc
expect_equal ended "$(look +dac_override)" "a process of another user"
expect_equal seen "$(look +sys_ptrace)" "the same process"
mount -o remount,hidepid=off,gid=0 /proc
kill $!

step "memory that somebody keeps when its lease has ended, got from a service that is gone: stop says so"
mkfifo in.outside
python3 grower.py --outside 8 <in.outside >kept &
exec {pipe}>in.outside
expect_within 60 test -s kept
systemctl restart $UNIT
end=$(journal_end)
systemctl stop $UNIT
expect_in "lease-$(<kept) is open still, after its lease has ended" "$(journal_after "$end")"
expect_equal failed "$(unit ActiveState)" "state"
[ -e $LEDGER ] || fail "nobody would know any more"

step "when it is closed, give-back gives it back"
exec {pipe}>&-
wait $!
ali-enclaves-allocator give-back
expect_nothing_left
expect_machine "$before" "in the end"
systemctl reset-failed $UNIT
restore_yaml
