# Asking for more than can be had changes nothing, and says for each node what was missing, and how much.
. ./lib.sh
before=$(snapshot)

# Fails unless so much memory is short of what node NODE has. Usage: expect_short NODE ASKED-MIB [CPUS-MISSING]
expect_short() {
    local pattern="node $1: ${3:+$3, }([0-9]+) MiB short \\(([0-9]+) available\\)" has
    [[ $said =~ $pattern ]] || fail "node $1: not told: $said"
    has=$(awk '/MemTotal/ { print int($4 / 1024) }' "$NODE/node$1/meminfo")
    expect_equal "$2" $((BASH_REMATCH[1] + BASH_REMATCH[2])) "short and available together, on node $1"
    [ "${BASH_REMATCH[2]}" -gt 0 ] && [ "${BASH_REMATCH[2]}" -lt "$has" ] || fail "node $1 has $has MiB: $said"
}

step "too many CPUs"
printf '%s\n' "memory_mib: 64" "cpu_count: 6" >big.yaml
expect_exit 69 ali-enclaves-allocator serve big.yaml
expect_in "one node: node 0: 4 CPUs short (2 available); node 1: 2 CPUs short (4 available); nothing was changed" "$said"
expect_machine "$before" "after too many CPUs"

step "too much memory"
printf '%s\n' "memory_mib: 3000" "cpu_count: 2" >big.yaml
expect_exit 69 ali-enclaves-allocator serve big.yaml
for node in 0 1; do expect_short $node 3000; done
expect_in "; nothing was changed" "$said"
expect_machine "$before" "after too much memory"

step "both, by check and by the service"
write_yaml "memory_mib: 3000" "cpu_count: 6"
expect_exit 69 ali-enclaves-allocator check
expect_short 0 3000 '4 CPUs short \(2 available\)'
refuse 69
expect_short 0 3000 '4 CPUs short \(2 available\)'
expect_short 1 3000 '2 CPUs short \(4 available\)'
expect_in "; nothing was changed" "$said"
expect_machine "$before" "after both"
restore_yaml
