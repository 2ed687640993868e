# The nitro_enclaves driver is refused a CPU, because SCHED_DEADLINE tasks need it: it has the former pool's again.
. ./lib.sh
. ./deadline_lib.sh
NE_CPUS=/sys/module/nitro_enclaves/parameters/ne_cpus
before=$(snapshot)
modprobe nitro_enclaves
write_yaml "memory_mib: 64" "cpu_pool: 4-5" "cpu_driver: nitro_enclaves"
start
standing=$(snapshot)

step "what 6 tasks reserve, 6 CPUs can carry, and 5 cannot: the driver gives up its CPUs, and takes no more than before"
reserve 6
write_yaml "memory_mib: 96" "cpu_pool: 4-7" "cpu_driver: nitro_enclaves"
end=$(journal_end)
expect_exit 1 systemctl reload $UNIT
expect_in "the nitro_enclaves driver" "$(journal_after "$end")"
expect_in "; all changes undone" "$(journal_after "$end")"
expect_equal 4-5 "$(<$NE_CPUS)" "CPUs of the driver"
expect_machine "$standing" "after the refusal"
expect_equal "degraded [4, 5]" "$(pool state) $(pool cpus)" "state and CPUs"

step "when the tasks are gone, it takes them"
unreserve
systemctl reload $UNIT
expect_equal 4-7 "$(<$NE_CPUS)" "CPUs of the driver"
expect_equal ready "$(pool state)" "state"
stop
expect_machine "$before" "after stop"
rmmod nitro_enclaves
restore_yaml
