# On cgroup v1 the pool and offline leases work, an online lease is refused, and cpusets get back what they lost.
# For a machine that boots with systemd.unified_cgroup_hierarchy=0.
. ./lib.sh
. ./lease_lib.sh
before=$(snapshot)
root=/sys/fs/cgroup/cpuset

# Makes a cpuset. Usage: make CPUSET CPUS
make() {
    mkdir "$root/$1"
    echo 0-1 >"$root/$1/cpuset.mems"
    echo "$2" >"$root/$1/cpuset.cpus"
}

# Fails unless the cpusets have these CPUs. Usage: expect_cpusets OTHERS OTHERS/POOL ZONE WHEN
expect_cpusets() {
    expect_equal "$1|$2|$3|0-1" "$(<$root/others/cpuset.cpus)|$(<$root/others/pool/cpuset.cpus)|$(
    )$(<$root/zone/cpuset.cpus)|$(<$root/host/cpuset.cpus)" "CPUs of others, others/pool, zone and host $4"
}

# Prints the cpuset that a process is in. Usage: cpuset_of PID
cpuset_of() { sed -n 's/^[0-9]*:cpuset://p' "/proc/$1/cgroup"; }

step "container engines made cpusets, and a task is bound to what will be the pool"
make others 0-7
make others/pool 2-3
make zone 2-3
make host 0-1
sleep infinity &
bound=$!
echo $bound >$root/others/pool/cgroup.procs
write_yaml "memory_mib: 256" "cpu_pool: 2-3"
end=$(journal_end)
start
standing=$(snapshot)
expect_machine "$(with_pool "$before" 0-1,4-7 0 128)" "with the pool"
expect_cpusets 0-1,4-7 "" "" "with the pool"
expect_within 10 test "$(cpuset_of $bound)" = /others
expect_within 10 journal_has "$end" "task sleep[$bound] may run on CPUs 2-3 only, all in the pool"

step "an offline lease works"
take web 2 192 --map
expect_equal '[2, 3]' "$(lease cpus)" "CPUs"
murder web
expect_whole

step "one that outlives the service is given back when it ends, by nobody but what waits for it"
take web 2 192
systemctl stop $UNIT
expect_equal 0-1,4-7 "$(<$CPU/online)" "online CPUs beside the lease"
murder web
expect_within 30 test ! -e $LEDGER
expect_machine "$before" "after the lease"
expect_cpusets 0-7 2-3 2-3 "after the lease"
start

step "an online lease is refused, and nothing is changed"
expect_exit 1 python3 holder.py --online 2 64 </dev/null
expect_in OnlineImpossible "$said"
expect_in "there is no cpuset controller in a cgroup v2 tree" "$said"
expect_whole
expect_equal "$standing" "$(snapshot)" "the machine after the refusal"
expect_cpusets 0-1,4-7 "" "" "after the refusal"

step "killed, it forgets nothing: after stop every cpuset has its CPUs again"
kill -9 "$(unit MainPID)"
expect_within 60 sh -c "[ \$(systemctl show --property NRestarts --value $UNIT) = 1 ]"
expect_within 60 systemctl is-active $UNIT
expect_equal "$standing" "$(snapshot)" "the machine after kill -9"
stop
expect_machine "$before" "after stop"
expect_cpusets 0-7 2-3 2-3 "after stop"

step "a cpuset that the kernel refuses to give them back is named"
start
expect_cpusets 0-1,4-7 "" "" "with the pool"
echo 1 >$root/zone/cpuset.cpu_exclusive
end=$(journal_end)
stop
expect_machine "$before" "after stop"
expect_cpusets 0-7 2-3 "" "after stop"
expect_within 10 journal_has "$end" "cpuset zone does not get CPUs 2-3 back: Invalid argument"

kill $bound
wait $bound || true
rmdir $root/{others/pool,others,zone,host}
restore_yaml
