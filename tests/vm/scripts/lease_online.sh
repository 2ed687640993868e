# CPUs lent online: no host task ever runs on them, whatever happens to the service.
source ./lib.sh
source ./lease_lib.sh

before=$(snapshot)
allowed=$(affinities)
start
standing=$(snapshot)
spin

step "the holder is on the lease's CPUs, and nobody else can be"
take web 2 192 --online
expect_equal '[2, 3]' "$(lease allowed_cpus)" "CPUs that the holder may use"
expect_equal root "$(<$PARTITION)" "partition"
expect_equal 0-1,4-7 "$(</sys/fs/cgroup/cpuset.cpus.effective)" "CPUs of everything else"
expect_exit 1 taskset --cpu-list 2 true
holder=${takers[web]}

lives() {
    kill -0 "$holder" || fail "the holder died: $*"
    expect_equal root "$(<$PARTITION)" "partition after $*"
    expect_equal 2,3 "$(taskset --cpu-list --pid "$holder" | sed 's/.*: //')" "CPUs of the holder after $*"
}

step "it lives through all that happens to the service and to systemd"
systemctl restart $UNIT
lives restart
systemctl daemon-reload
lives daemon-reload
systemctl daemon-reexec
lives daemon-reexec
systemctl kill --signal KILL $UNIT
expect_within 60 systemctl is-active $UNIT
lives 'kill -9 of the service'
systemctl stop $UNIT
lives stop
start
lives start
leases_are 1 || fail "the lease is not there any more"
expect_equal ready "$(pool state)" "state"

expect_equal '0 1 4 5 6 7' "$(spun)" "CPUs that the host ever ran on"

step "another slice that claims its CPUs is drift, for the host can run there; restart repairs it when the claim is gone"
systemctl start machine.slice
systemctl set-property --runtime machine.slice AllowedCPUs=2-3
expect_within 60 bash -c '[ "$(ali-enclaves-allocator status --json | python3 varlink.py part state)" = degraded ]'
systemctl set-property --runtime machine.slice AllowedCPUs=
systemctl restart $UNIT
lives 'the overlap'
spin
expect_equal ready "$(pool state)" "state"

expect_equal '0 1 4 5 6 7' "$(spun)" "CPUs that the host ever ran on"

step "killed, it leaves a whole pool"
murder web
expect_whole
expect_equal "$standing" "$(snapshot)" "the machine with the pool"

step "a lease that outlives the service goes back to the host when it ends"
take web 2 192 --online
systemctl stop $UNIT
expect_in 'except what leases hold: CPUs 2-3' "$(journalctl --unit $UNIT --lines 5 --output cat)"
kill -0 "${takers[web]}"
murder web
expect_within 60 test ! -e $LEDGER
expect_within 60 test ! -e /sys/fs/cgroup/enclaves.slice
expect_nothing_left
expect_machine "$before" "when the lease ended"
expect_same "$allowed" "$(affinities)" "CPUs that the host's tasks may run on"
start

step "a claim that is there before is refused by name"
systemctl set-property --runtime machine.slice AllowedCPUs=2-3
expect_exit 1 python3 holder.py --online 2 64 </dev/null
expect_in OnlineImpossible "$said"
expect_in machine.slice "$said"
systemctl set-property --runtime machine.slice AllowedCPUs=
systemctl stop machine.slice
rm -rf /run/systemd/system.control/machine.slice.d
expect_whole
stop
expect_machine "$before" "after stop"
expect_same "$allowed" "$(affinities)" "CPUs that the host's tasks may run on"
