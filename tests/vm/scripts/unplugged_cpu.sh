# A CPU of the pool is unplugged: it shows at once, the next restart puts another in its place, and stop misses nothing.
# For a machine with hotplug, of one node with four cores of one thread. QEMU 7.2 spoils its own memory when it plugs a
# CPU in again under emulation, so that is not tried here; a reboot brings the CPU back.
# Usage: unplugged_cpu.sh [rebooted]
. ./lib.sh
. ./lease_lib.sh
if [ "${1:-}" = rebooted ]; then
    expect_equal 0-3 "$(<$CPU/present)" "CPUs that the machine has"
    exit
fi
for cpu in 1 2 3; do echo 1 >$CPU/cpu$cpu/online; done # it boots with one, for it has a thread for each
before=$(snapshot)
allowed=$(affinities)
is_degraded() { [[ $(sentence) == "pool degraded:"* ]]; }

step "the pool is CPUs 2-3"
write_yaml "memory_mib: 64" "cpu_count: 2"
start
expect_machine "$(with_pool "$before" 0-1 0 32)" "with the pool"

step "CPU 3 is unplugged, while it is lent"
take web 2 64 --online
expect_equal '[2, 3]' "$(lease allowed_cpus)" "CPUs that the holder may use"
python3 unplug.py 3
expect_within 30 test ! -e $CPU/cpu3
expect_equal 0-2 "$(<$CPU/present)" "CPUs that the machine has"
expect_within 10 is_degraded
expect_in "CPU 3: unplugged: the machine no longer has it, wanted present" "$(sentence)"

murder web
expect_within 60 leases_are 0

step "restart puts CPU 1 in its place"
systemctl restart $UNIT
expect_in "pool ready: CPUs 1-2 (2 cores) on node 0" "$(sentence)"
expect_equal 0 "$(<$CPU/online)" "online CPUs"

step "stop"
stop
expect_same "${before/online 0-3/online 0-2}" "$(snapshot)" "the machine after stop"
expect_same "$allowed" "$(affinities)" "CPUs that the host's tasks may run on, CPU 3 among them if it comes back"
restore_yaml
trap - EXIT
exit 194
