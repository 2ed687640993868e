# The pool is the nitro_enclaves driver's: it has the CPUs, and its launcher finds the pages free.
. ./lib.sh
NE_CPUS=/sys/module/nitro_enclaves/parameters/ne_cpus
before=$(snapshot)
ours="cpu_driver: nitro_enclaves"

step "without the driver it is refused"
write_yaml "memory_mib: 64" "cpu_count: 2" "$ours"
refuse 78
expect_in "allocator.yaml:3:13: cpu_driver: the module nitro_enclaves is not loaded" "$said"
modprobe nitro_enclaves

step "so it is while somebody else's CPUs are with it"
echo 6-7 >$NE_CPUS
refuse 78
expect_in "nitro_enclaves has CPUs 6-7 of somebody else's" "$said"
expect_equal 6-7 "$(<$NE_CPUS)" "CPUs of the driver"
! echo >$NE_CPUS || fail "the driver took an empty list"
expect_machine "$before" "before the start"

step "it has the pool's CPUs, and the pages are there for whoever maps them"
start
expect_equal 2-3 "$(<$NE_CPUS)" "CPUs of the driver"
expect_equal 0-1,4-7 "$(<$CPU/online)" "CPUs online"
expect_equal 32 "$(counter 0 nr_hugepages)" "pages of node 0"
expect_equal 32 "$(counter 0 free_hugepages)" "free pages of node 0"
expect_equal 32 "$(steal 0)" "pages that a program gets"
expect_equal 32 "$(pool nodes.0.hugepages.0.granted)" "pages that GetPool tells of"
expect_in "CPUs with the nitro_enclaves driver, memory not held: nothing is lent" "$(sentence)"
expect_exit 1 python3 holder.py 2 64 </dev/null
expect_in LeasesDisabled "$said"
systemctl restart $UNIT
expect_equal 2-3 "$(<$NE_CPUS)" "CPUs of the driver after a restart"

step "other CPUs"
write_yaml "memory_mib: 64" "cpu_pool: 4-5" "$ours"
systemctl reload $UNIT
expect_equal 4-5 "$(<$NE_CPUS)" "CPUs of the driver"
expect_equal 0-3,6-7 "$(<$CPU/online)" "CPUs online"
expect_equal "0 32" "$(counter 0 nr_hugepages) $(counter 1 free_hugepages)" "pages of the nodes"

step "that somebody takes them from it is drift, which restart repairs"
! echo >$NE_CPUS || fail "the driver took an empty list"
expect_within 60 bash -c '[ "$(ali-enclaves-allocator status --json | python3 varlink.py part state)" = degraded ]'
expect_in "the nitro_enclaves driver: has no CPUs, wanted to have CPUs 4-5" "$(pool summary)"
systemctl restart $UNIT
expect_equal 4-5 "$(<$NE_CPUS)" "CPUs of the driver"
expect_equal ready "$(pool state)" "state"

step "from the driver to leases, and back to nothing"
write_yaml "memory_mib: 64" "cpu_pool: 4-5"
systemctl reload $UNIT
expect_equal "" "$(<$NE_CPUS)" "CPUs of the driver"
expect_machine "$(with_pool "$before" 0-3,6-7 1 32)" "with the service's own pool"
write_yaml "memory_mib: 64" "cpu_pool: 4-5" "$ours"
systemctl reload $UNIT
expect_equal 4-5 "$(<$NE_CPUS)" "CPUs of the driver"
stop
expect_equal "" "$(<$NE_CPUS)" "CPUs of the driver"
expect_machine "$before" "after stop"
rmmod nitro_enclaves
restore_yaml
