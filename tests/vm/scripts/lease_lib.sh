# Sourced after lib.sh by the scripts about leases and enclaves.

PARTITION=/sys/fs/cgroup/enclaves.slice/cpuset.cpus.partition

# Prints the CPUs that old and new tasks of the host, and kernel threads, may run on.
affinities() { grep -H Cpus_allowed_list /proc/{1,2,self}/status "/proc/$$/status"; }

# Takes a lease in the background and leaves what was answered in $said. Usage: take NAME CPUS MIB [OPTION…]
# It is taken as another user where $as has a command for that.
declare -A takers=() pipes=()
as=()
take() {
    local name=$1 cpus=$2 mib=$3 out=taken.$1
    shift 3
    rm -f "$out" "in.$name"
    mkfifo "in.$name"
    "${as[@]}" python3 holder.py --name "$name" "$@" "$cpus" "$mib" <"in.$name" >"$out" 2>&1 &
    takers[$name]=$!
    exec {pipes[$name]}>"in.$name"
    expect_within 60 test -s "$out"
    expect_within 60 no_rest
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

whole() { python3 varlink.py whole; }
# Tells whether no lease's file has more pages than its size tells: what it leaves over is held after the answer.
no_rest() {
    find /run/ali-enclaves -name 'lease-*' -printf '%s %b\n' | awk '$1 < 512 * $2 { rest = 1 } END { exit rest }'
}
no_lease_file() { [ -z "$(find /run/ali-enclaves -name 'lease-*')" ]; }
no_scope() { [ -z "$(find /sys/fs/cgroup -name 'evm-*.scope')" ]; }
leases_are() { [ "$(pool leases)" = "$1" ]; }

# Fails unless the pool is whole: nothing leased, every page held.
expect_whole() {
    expect_within 60 whole
    expect_equal 0 "$(pool leases)" "leases"
    expect_equal ready "$(pool state)" "state"
    expect_within 60 no_scope
    expect_within 60 no_lease_file
    [[ ! -e $PARTITION || $(<$PARTITION) = member ]] || fail "the partition is left"
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
