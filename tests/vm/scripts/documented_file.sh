# The file as it is shipped becomes a pool, and stop gives back exactly that.
# Usage: documented_file.sh [POOL-CPUS ONLINE-WITH-POOL NODE]; the default is that of the default machine.
. ./lib.sh
cpus=${1:-2-3} online=${2:-0-1,4-7} node=${3:-0}
before=$(snapshot)

step "the two CPUs are whole cores of one node"
cores=()
for cpu in $(cpus_of "$cpus"); do
    [ -d $CPU/cpu"$cpu"/node"$node" ] || fail "CPU $cpu is not on node $node"
    cores+=("$(<$CPU/cpu"$cpu"/topology/thread_siblings_list)")
done
expect_equal "$(cpus_of "$cpus")" "$(for core in "${cores[@]}"; do cpus_of "$core"; done | sort -u)" "CPUs of the cores"
count=$(printf '%s\n' "${cores[@]}" | sort -u | wc -l)

step "start takes them and adds 512 pages to the node, and nobody else can have one"
start
expect_machine "$(with_pool "$before" "$online" "$node" 512)" "with the pool"
expect_equal 512 "$(pool nodes."$node".hugepages.0.free)" "pages free for leases"
expect_equal 0 "$(pool nodes."$node".hugepages.0.others_total)" "pages of others"
expect_equal 0 "$(steal)" "pages that a thief gets"

step "one sentence says so"
[ "$count" = 1 ] && cores="1 core" || cores="$count cores"
wanted="pool ready: CPUs $cpus ($cores) on node $node, 1024 MiB in 512×2M; no leases"
expect_equal "$wanted" "$(sentence)" "the sentence"
expect_in "Status: \"$wanted\"" "$(systemctl status $UNIT)"
expect_exit 0 ali-enclaves-allocator status --json
expect_equal "$wanted" "$(part summary <<<"$said")" "the sentence in status --json"

step "stop gives all of it back"
stop
expect_machine "$before" "after stop"
