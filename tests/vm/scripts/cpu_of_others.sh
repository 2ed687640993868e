# A CPU that somebody else takes offline and brings back: it is every host task's again, whatever was lent meanwhile.
source ./lib.sh
source ./lease_lib.sh

before=$(snapshot)
allowed=$(affinities)
write_yaml "memory_mib: 64" "cpu_pool: 6-7" "offline: leased"
start

step "offline before a lease, back while it lives"
echo 0 >$CPU/cpu3/online
take web 2 64 --online
expect_equal '[6, 7]' "$(lease allowed_cpus)" "CPUs that the holder may use"
echo 1 >$CPU/cpu3/online
murder web
expect_whole
expect_same "$allowed" "$(affinities)" "CPUs that the host's tasks may run on"

step "offline before a lease, back after it"
echo 0 >$CPU/cpu3/online
take web 2 64 --online
murder web
expect_whole
echo 1 >$CPU/cpu3/online
expect_same "$allowed" "$(affinities)" "CPUs that the host's tasks may run on"

step "offline while it lives, back after the stop"
take web 2 64 --online
echo 0 >$CPU/cpu3/online
murder web
expect_whole
stop
restore_yaml
echo 1 >$CPU/cpu3/online
expect_machine "$before" "after stop"
expect_same "$allowed" "$(affinities)" "CPUs that the host's tasks may run on"
