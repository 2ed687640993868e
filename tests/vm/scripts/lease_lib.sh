# Sourced after lib.sh by the scripts about leases and enclaves.

POOL_NODE=0

# Takes a lease in the background and leaves what was answered in $said. Usage: take NAME CPUS MIB [OPTION…]
declare -A takers=() pipes=()
take() {
    local name=$1 cpus=$2 mib=$3 out=taken.$1
    shift 3
    rm -f "$out" "in.$name"
    mkfifo "in.$name"
    python3 holder.py --name "$name" "$@" "$cpus" "$mib" <"in.$name" >"$out" 2>&1 &
    takers[$name]=$!
    exec {pipes[$name]}>"in.$name"
    expect_within 60 test -s "$out"
    said=$(<"$out")
}

# Lets a holder end by itself. Usage: end NAME
end() {
    local fd=${pipes[$1]}
    exec {fd}>&-
    wait "${takers[$1]}" || true
}

# Kills a holder. Usage: murder NAME
murder() {
    local fd=${pipes[$1]}
    kill -KILL "${takers[$1]}"
    wait "${takers[$1]}" 2>/dev/null || true
    exec {fd}>&-
}

lease() { part "parameters.lease.$1" <<<"$said"; }

no_lease() { [ "$(pool leases)" = 0 ]; }
leases_are() { [ "$(pool leases)" = "$1" ]; }

# Fails unless the pool is whole: nothing leased, every page held.
expect_whole() {
    expect_within 60 no_lease
    expect_equal "$(pool "nodes.$POOL_NODE.hugepages.0.asked")" "$(pool "nodes.$POOL_NODE.hugepages.0.free")" "pages free for leases"
    expect_equal ready "$(pool state)" "state"
    expect_equal "" "$(find /sys/fs/cgroup -name 'evm-*.scope')" "scopes left"
    expect_equal "" "$(find /run/ali-enclaves -name 'lease-*')" "memory files left"
    [ ! -e /sys/fs/cgroup/enclaves.slice ] || fail "the slice is left"
}

# Starts a load on every CPU that it may use, which records the CPUs that it ever ran on. Usage: spin [PAUSE_SECONDS]
spin() {
    python3 spinner.py "$@" >spun &
    HOST_SPINNER=$!
}

# Stops the load and prints the CPUs it ran on.
spun() {
    kill -TERM "$HOST_SPINNER"
    timeout 60 tail --pid="$HOST_SPINNER" --follow /dev/null
    cat spun
}
