# Asking for more than can be had changes nothing, and says for each node what was missing.
. ./lib.sh
before=$(snapshot)

step "too many CPUs"
printf '%s\n' "memory_mib: 64" "cpu_count: 6" >big.yaml
expect_exit 69 ali-enclaves-allocator check big.yaml
expect_in "node 0: 4 CPUs short (2 available); node 1: 2 CPUs short (4 available)" "$said"

step "too much memory"
printf '%s\n' "memory_mib: 3000" "cpu_count: 2" >big.yaml
expect_exit 69 ali-enclaves-allocator check big.yaml
[[ $said =~ node\ 0:\ [0-9]+\ MiB\ short.*node\ 1:\ [0-9]+\ MiB\ short ]] || fail "not for each node: $said"

step "both, by the service"
write_yaml "memory_mib: 3000" "cpu_count: 4"
refuse 69
[[ $said =~ node\ 0:\ 2\ CPUs\ short.*,\ [0-9]+\ MiB\ short.*node\ 1:\ [0-9]+\ MiB\ short ]] || fail "not both: $said"
expect_in "nothing was changed" "$said"
expect_machine "$before" "after start"
