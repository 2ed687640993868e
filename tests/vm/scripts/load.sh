# Many clients for a while: 1,000 idle connections, 50 watchers of which 10 never read, 8 that take leases and end them.
# The service stays the same process, feeds its watchdog, and neither its memory nor its descriptors grow.
#
# Usage: load.sh [SECONDS]
source ./lib.sh
source ./lease_lib.sh

seconds=${1:-60}
before=$(snapshot)
write_yaml "memory_mib: 48" "cpu_pool: 2-7" "max_enclaves: 3"
start
standing=$(snapshot)
pid=$(unit MainPID)
descriptors() { find "/proc/$pid/fd" -mindepth 1 | wc -l; }
descriptors_are() { [ "$(descriptors)" = "$1" ]; }
open=$(descriptors)

step "$seconds seconds of load"
ulimit -n 4096
python3 load.py "$seconds" 1000 50 10 >figures &
load=$!
expect_within 300 grep -qx loaded figures
uptime_seconds() { cut -d. -f1 /proc/uptime; }
until=$(($(uptime_seconds) + seconds - 15))
rounds=0
while [ "$(uptime_seconds)" -lt $until ]; do
    python3 cycles.py 8 2 $rounds 8 >cycles
    rounds=$((rounds + 1))
done
wait $load
cat figures
echo "$((rounds * 16)) leases by 8 clients"

step "it is the same process, it has nothing left of them, and the pool is whole"
expect_equal "$pid 0" "$(unit MainPID) $(unit NRestarts)" "the service's process and its restarts"
expect_whole
expect_within 60 descriptors_are "$open"
expect_equal "$standing" "$(snapshot)" "the machine with the pool"
stop
restore_yaml
expect_machine "$before" "after stop"
