# Leases taken and ended over and over by many clients, some of them killed: nothing leaks, nothing is held twice, and
# nobody else gets a page. Usage: lease_cycles.sh [CYCLES [SEED]]
source ./lib.sh
source ./lease_lib.sh

clients=8
cycles=${1:-1000}
seed=${2:-$RANDOM}
before=$(snapshot)
write_yaml "memory_mib: 48" "cpu_pool: 2-7" "max_enclaves: 3"
start
standing=$(snapshot)
pid=$(unit MainPID)
descriptors() { find "/proc/$pid/fd" -mindepth 1 | wc -l; }
descriptors_are() { [ "$(descriptors)" = "$1" ]; }

step "every page of a bank, written by one who was killed, is clear for the next"
take web 2 16 --node 0 --map
expect_equal 0 "$(pool nodes.0.hugepages.0.free)" "pages of node 0 that are free for leases"
murder web
expect_whole
take next 2 16 --node 0 --map
expect_equal true "$(lease clear)" "every page is clear"
end next
expect_whole

step "$clients clients, $cycles cycles, seed $seed"
open=$(descriptors)
python3 cycles.py $clients "$((cycles / clients))" "$seed" 8
expect_whole
expect_within 60 descriptors_are "$open"
expect_equal '[]' "$(part pool.leases <$LEDGER)" "leases in the ledger"
expect_equal "$standing" "$(snapshot)" "the machine with the pool"
expect_equal "$pid" "$(unit MainPID)" "the service's process"

step "a thief on the pool's node, while others have idle pages on another"
set_pages 0 $(($(counter 0 nr_hugepages) + 10))
python3 hugepages.py spin spun 1 &
thief=$!
expect_within 60 grep -qx spinning spun
python3 cycles.py 2 "$((cycles / 10))" "$seed" 8
kill $thief
wait $thief || true
echo "the thief took $(grep -c took spun || true) pages for a moment"
expect_whole
set_pages 0 $(($(counter 0 nr_hugepages) - 10))
expect_equal "$standing" "$(snapshot)" "the machine with the pool"
stop
restore_yaml
expect_machine "$before" "after stop"
