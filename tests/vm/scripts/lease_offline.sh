# A lease whose CPUs stay offline: whole or nothing, clear memory, ended with its holder.
source ./lib.sh
source ./lease_lib.sh

before=$(snapshot)
start
standing=$(snapshot)

python3 watch_files.py $NODE/node0/hugepages/hugepages-2048kB/free_hugepages >free &
watcher=$!

step "a lease is cores, memory and a scope, all on one node"
take web 2 192 --map --grow
expect_equal '[2, 3]' "$(lease cpus)" "CPUs"
expect_equal 192 "$(lease memory_mib)" "memory"
expect_equal true "$(lease clear)" "every page is clear"
expect_equal false "$(lease grew)" "the holder got one page more"
id=$(lease id)
expect_in "evm-$id.scope" "$(lease cgroup)"
expect_equal 96 "$(pool nodes.0.hugepages.0.leased)" "pages leased"
expect_equal 416 "$(pool nodes.0.hugepages.0.free)" "pages free for leases"
expect_equal "$standing" "$(snapshot)" "the machine beside the lease"
expect_in '1 lease: web (CPUs 2-3, 192 MiB)' "$(sentence)"
expect_equal "$(systemctl show --property ActiveState --value "evm-$id.scope")" active "scope"

step "the default limit is one, and the refusal names who has it"
expect_exit 1 python3 holder.py 2 64 </dev/null
expect_in LeaseLimitReached "$said"
expect_in 'web (CPUs 2-3, 192 MiB)' "$said"

step "killed, the holder leaves a whole pool, and the next one finds nothing of its memory"
murder web
expect_whole
for again in 1 2; do
    take next 2 256 --map
    expect_equal true "$(lease clear)" "every page is clear, lease $again"
    end next
    expect_whole
done

step "pages went from lease to lease one at a time: nobody else could have had them"
kill $watcher
wait $watcher || true
most=$(sort --numeric-sort --reverse free | head -n1)
[ "$most" -le 1 ] || fail "$most pages were free at a time"

step "what cannot be had is refused and changes nothing"
expect_exit 1 python3 holder.py 4 64 </dev/null
expect_in InsufficientCpus "$said"
expect_exit 1 python3 holder.py 1 64 </dev/null
expect_in NotWholeCores "$said"
expect_exit 1 python3 holder.py 2 1026 </dev/null
expect_in InsufficientMemory "$said"
expect_in 'node 0: 1024 MiB free' "$said"
expect_whole
expect_equal "$standing" "$(snapshot)" "the machine after the refusals"

step "a holder that leaves children: they end with the lease"
cat >forker.py <<'PY'
import os, sys, time
sys.argv = ["holder.py", "2", "64"]
import holder
reply, fds = holder.acquire({"cpu_count": 2, "memory_mib": 64, "online": False})
if not os.fork():
    os.setsid()
    time.sleep(1000)
print("forked", flush=True)
PY
expect_exit 0 python3 forker.py
expect_whole
expect_exit 1 pgrep -f forker.py

step "stop with a lease: the rest goes back, the lease stays; after it and a start all is whole"
take web 2 192
id=$(lease id)
expect_exit 0 systemctl stop $UNIT
expect_equal "" "$said" "what systemctl says of it"
kill -0 "${takers[web]}"
expect_exit 3 ali-enclaves-allocator status
expect_in "set aside still: CPUs 2-3 (1 core) on node 0" "$said"
expect_in "to end them: systemctl stop evm-$id.scope" "$said"
expect_exit 3 systemctl status $UNIT
expect_in "except what leases hold: CPUs 2-3 (1 core) on node 0" "$said"
expect_equal 0-1,4-7 "$(<$CPU/online)" "online CPUs beside the lease"
murder web
start
expect_whole
expect_equal "$standing" "$(snapshot)" "the machine with the pool"
stop
expect_machine "$before" "after stop"
