# What the host's own services and root may do to it: systemd that does not answer, the slice stopped by hand, a scope
# killed by hand, its directory read-only. Each is told with a way out, and nothing is lost.
source ./lib.sh
source ./lease_lib.sh

before=$(snapshot)
write_yaml "memory_mib: 48" "cpu_pool: 4-7" "max_enclaves: 2"
start
standing=$(snapshot)

step "systemd does not answer: a lease is refused, and the caller lives to read why; the service answers all the while"
python3 mute.py "$PWD/mute.sock" >muted &
mute=$!
expect_within 20 grep -q listens muted
mount --bind mute.sock /run/systemd/private
python3 holder.py --name web 2 8 </dev/null >refused 2>&1 &
caller=$!
expect_within 20 grep -q connected muted
expect_equal 48 "$(pool memory_mib)" "MiB, by a service that waits for systemd"
status=0
wait $caller || status=$?
umount /run/systemd/private
kill $mute
expect_equal 1 $status "exit status of the caller"
cat refused
expect_in 'KernelRefused' "$(<refused)"
expect_in 'no answer from systemd in 60 s' "$(<refused)"
expect_whole
expect_machine "$standing" "after the refusal"
take web 2 8 --online
end web
expect_whole

step "the slice is stopped by hand: its enclave ends, as after any other end, and the pool is whole"
take web 2 8 --online
systemctl stop enclaves.slice
expect_whole
murder web 2>/dev/null || true
expect_machine "$standing" "after the end of the slice"
take web 2 8 --online
expect_equal '[6, 7]' "$(lease allowed_cpus)" "CPUs of the next lease"

step "its scope is killed by hand"
systemctl kill --signal KILL "evm-$(lease id).scope"
expect_whole
murder web 2>/dev/null || true

stop
step "its directory is read-only: nothing is changed, and it is told"
mount --bind /run/ali-enclaves /run/ali-enclaves
mount -o remount,bind,ro /run/ali-enclaves
refuse 69
echo "$said"
expect_in 'Read-only file system; nothing was changed' "$said"
expect_machine "$before" "after the refusal"
umount /run/ali-enclaves
start
expect_machine "$standing" "when it can be written"

stop
restore_yaml
expect_machine "$before" "after stop"
