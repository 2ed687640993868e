# Cores that are the host's until a lease takes them, and again after; their memory is set aside as ever.
source ./lib.sh
source ./lease_lib.sh

before=$(snapshot)
allowed=$(affinities)
write_yaml "memory_mib: 256" "cpu_count: 4" "max_enclaves: 2" "offline: leased"
start
standing=$(with_pool "$before" 0-7 1 128)
expect_machine "$standing" "with the pool"
expect_in "CPUs 4-7 (2 cores) on node 1, 256 MiB in 128×2M; no leases, so the host has the CPUs" "$(sentence)"
spin
taskset --cpu-list 7 sleep infinity &
pinned=$!

step "a lease takes its core from the host, and tells whom that moves"
moment=$(journal_end)
take web 2 64 --online
expect_equal '[6, 7]' "$(lease allowed_cpus)" "CPUs that the holder may use"
expect_in "task sleep[$pinned] may run on CPU 7 only" "$(journal_after "$moment")"
expect_equal '0 1 2 3 4 5 6 7' "$(spun)" "CPUs that the host ran on until then"
kill $pinned
expect_equal root "$(<$PARTITION)" "partition"
spin

step "a second one beside it, whose CPUs stay offline"
take db 2 64
expect_equal 0-3,6-7 "$(<$CPU/online)" "CPUs online"
systemctl restart $UNIT
expect_equal 0-3,6-7 "$(<$CPU/online)" "CPUs online after a restart"
end db
expect_within 60 leases_are 1
expect_within 60 grep -qx 0-7 $CPU/online # they come one after the other
taskset --cpu-list 4 true
expect_equal '0 1 2 3 4 5' "$(spun)" "CPUs that the host ran on beside the leases"

step "when the last has ended the host has all of them, and every task may use them"
murder web
expect_whole
expect_machine "$standing" "when the leases ended"
expect_same "$allowed" "$(affinities)" "CPUs that the host's tasks may run on"
[ ! -e $PARTITION ] || fail "the slice is left"

step "a lease that outlives the service does the same"
take web 2 64 --online
systemctl stop $UNIT
expect_equal root "$(<$PARTITION)" "partition after stop"
murder web
expect_within 60 test ! -e $LEDGER
expect_within 60 test ! -e /sys/fs/cgroup/enclaves.slice
expect_machine "$before" "when the lease ended"
expect_same "$allowed" "$(affinities)" "CPUs that the host's tasks may run on"

step "what somebody else took offline is not lent, and stays offline"
start
echo 0 >$CPU/cpu7/online
expect_within 20 bash -c '[ "$(ali-enclaves-allocator status --json | python3 varlink.py part state)" = degraded ]'
expect_in "CPU 7: offline: somebody else took them" "$(sentence)"
expect_exit 1 python3 holder.py --online 2 64 </dev/null
expect_in PoolNotReady "$said"
stop
expect_equal 0-6 "$(<$CPU/online)" "CPUs online after stop"
echo 1 >$CPU/cpu7/online
expect_machine "$before" "at the end"
restore_yaml
