# A CPU that refuses to go offline, because SCHED_DEADLINE tasks need it: all is undone, and the tasks are named.
#
# Usage: refusing_cpu.sh [TASKS [CPU]]; with so many tasks, that CPU is the first to be refused.
. ./lib.sh
. ./deadline_lib.sh
before=$(snapshot)
write_yaml "memory_mib: 64" "cpu_pool: 2-3"

step "what ${1:-8} tasks reserve, the CPUs that are left cannot carry: CPU ${2:-2} is refused"
reserve "${1:-8}"
refuse 69
expect_refused "${2:-2}" "$said"
expect_in "stop it or change its policy (chrt)" "$said"
expect_machine "$before" "after the refusal"
unreserve
restore_yaml
