# What the host's own services and root may do to it: systemd that does not answer, the slice stopped by hand, a scope
# killed by hand, its directory read-only. Each is told with a way out, and nothing is lost.
source ./lib.sh
source ./lease_lib.sh

trap 'code=$?; umount --quiet /run/systemd/private || true; at_exit $code' EXIT

# Serves in the foreground, and waits four seconds for systemd instead of sixty.
cat >serve.py <<'PY'
import sys
from ali_enclaves_allocator import cli
from ali_enclaves_allocator.kernel import sdbus
sdbus.ANSWER_S = 4.0
sys.exit(cli.main(["serve", "wanted.yaml"]))
PY
serve() { exec /usr/lib/ali-enclaves/bin/python3 -I serve.py >log 2>&1; }

before=$(snapshot)
wanted=("memory_mib: 48" "cpu_pool: 4-7" "max_enclaves: 2")
printf '%s\n' "${wanted[@]}" >wanted.yaml

step "a bank that systemd mounted when nobody waited for it any more, and that is not as it is wanted now, is no obstacle"
mkdir -p /run/ali-enclaves/banks/bank0
mount -t hugetlbfs -o pagesize=2M,size=8M hugetlbfs /run/ali-enclaves/banks/bank0
(serve) &
daemon=$!
expect_within 60 grep -q "^pool ready" log
expect_equal 48M "$(findmnt --noheadings --output SIZE /run/ali-enclaves/banks/bank0 | xargs)" "size of the bank"
standing=$(snapshot)

step "systemd does not answer: a lease is refused, and the caller lives to read why; the service answers all the while"
python3 mute.py "$PWD/mute" >seen &
mute=$!
expect_within 20 grep -q listens seen
mount --bind mute /run/systemd/private
python3 holder.py --name web 2 8 </dev/null >refused 2>&1 &
caller=$!
expect_within 20 grep -q connected seen
expect_equal 48 "$(pool memory_mib)" "MiB, by a service that waits for systemd"
status=0
wait $caller || status=$?
umount /run/systemd/private
kill $mute
expect_equal 1 $status "exit status of the caller"
cat refused
expect_in 'KernelRefused' "$(<refused)"
expect_in 'no answer from systemd in 4 s' "$(<refused)"
expect_whole
expect_machine "$standing" "after the refusal"
kill $daemon
wait $daemon
expect_machine "$before" "after the service by hand"
expect_nothing_left

write_yaml "${wanted[@]}"
start
expect_machine "$standing" "of the service"

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
