# Every refused file leaves the machine untouched, and names the line and the key.
. ./lib.sh
before=$(snapshot)

# Checks a file of these lines, which must be refused; leaves what was said in $said. Usage: refused LINE…
refused() {
    printf '%s\n' "$@" >bad.yaml
    expect_exit 78 ali-enclaves-allocator check bad.yaml
    expect_in "nothing was changed" "$said"
}

step "check: words that are not known, values that are not numbers"
refused "memory_mb: 1024" "cpu_count: two"
expect_in "bad.yaml:1:1: memory_mb: unknown key; did you mean memory_mib?" "$said"
expect_in 'bad.yaml:2:12: cpu_count: must be a whole number of CPUs, got the string "two"' "$said"

step "check: not YAML"
refused "memory_mib: 64" "cpu_count: 2" "	hugepage_size: 2M"
expect_in "bad.yaml:3:1: " "$said"

step "check: not whole cores"
refused "# odd" "memory_mib: 64" "cpu_count: 3"
expect_in "bad.yaml:3:12: cpu_count: got 3, wanted whole cores of 2 CPUs: 2 or 4" "$said"

step "check: a core of the host"
refused "cpu_pool: 0-1" "memory_mib: 64"
expect_in "bad.yaml:1:11: cpu_pool: CPUs 0-1 must stay with the host" "$said"
expect_machine "$before" "after check of refused files"

step "start, with three faults in one file"
write_yaml "# of a user in a hurry" "memory_mib: lots" "cpu_count: 2" "cpu_count: 4" "hugepage_size: 4M"
refuse 78
expect_in "$YAML:2:13: memory_mib: must be a whole number of MiB" "$said"
expect_in "$YAML:4:1: cpu_count: " "$said"
expect_in "$YAML:5:16: hugepage_size: must be 2M or 1G" "$said"
expect_machine "$before" "after start with a refused file"

step "start, with no file"
rm $YAML
refuse 78
expect_in "cannot read $YAML" "$said"
expect_machine "$before" "after start with no file"
restore_yaml
