# What a user can do to the service and to another's lease: from outside of the group, and as a member of it.
source ./lib.sh
source ./lease_lib.sh

before=$(snapshot)
chmod 755 .
useradd --no-create-home --groups de member
useradd --no-create-home outsider
write_yaml "memory_mib: 48" "cpu_pool: 2-7" "max_enclaves: 2"
start
mkdir -m 700 /run/ali-enclaves/evm/root
standing=$(snapshot)
take web 2 8 --online --node 0
leased=$(snapshot)
mapfile -t lent < <(lease cpus | tr -d '[],' | tr ' ' '\n')

wanted="end the service: EPERM
end the holder: EPERM
stop the holder: EPERM
trace the service: EPERM
trace the holder: EPERM
read the holder's memory: EACCES
reach the holder's file through /proc: EACCES
open the lease's file: EACCES
list the bank: EACCES
keep the bank: EACCES
remove the socket: EACCES
listen in its place: EADDRINUSE
link into the directory: EACCES
write the ledger: EACCES
write the configuration: EACCES
remove an enclave's directory: OWNER
enter the scope: EACCES
open the partition: EACCES
run on the lent CPUs: EINVAL
switch a CPU: EACCES
release the lease: NotPermitted
reload: NotPermitted
banks seen: 0"

for who in outsider:EACCES member:EPERM; do
    step "as ${who%:*}"
    got=$(setpriv --reuid "${who%:*}" --regid "${who%:*}" --init-groups \
        python3 attempts.py "$(unit MainPID)" "${takers[web]}" "$(lease id)" "${lent[@]}")
    expect_same "${wanted/OWNER/${who#*:}}" "$got" "what ${who%:*} can do"
    kill -0 "${takers[web]}"
    expect_machine "$leased" "after it"
    expect_equal "ready 1" "$(pool state) $(pool leases)" "state and leases"
done

step "a member fills the directory of enclaves: /run, which the host needs, has the room it had, and leases go on"
room=$(stat --file-system --format %a /run)
filled=/run/ali-enclaves/evm/filled
expect_exit 1 setpriv --reuid member --regid member --init-groups dd if=/dev/zero of=$filled bs=1M count=200
expect_in "No space left" "$said"
expect_equal "$((64 << 20)) $room" "$(stat --format %s $filled) $(stat --file-system --format %a /run)" "what is full, and what is not"
take other 2 8
end other
rm $filled
expect_within 60 leases_are 1

step "a holder whose name would upset a terminal is told without that"
cat >named.py <<'PY'
import ctypes, sys
import holder
ctypes.CDLL(None).prctl(15, b"\x1b[31mroot: x")
reply, _ = holder.acquire({"cpu_count": 2, "memory_mib": 8, "online": False})
print(reply if "error" in reply else "held", flush=True)
sys.stdin.read()
PY
end=$(journal_end)
mkfifo in.named
setpriv --reuid member --regid member --init-groups python3 named.py <in.named >named &
named=$!
exec {pipe}>in.named
expect_within 60 test -s named
expect_equal held "$(<named)" "what it got"
expect_within 20 journal_has "$end" '?[31mroot: x['
expect_in '?[31mroot: x' "$(python3 varlink.py call ListLeases '{}')"
exec {pipe}>&-
wait $named
end web
expect_whole
expect_machine "$standing" "after all"
rmdir /run/ali-enclaves/evm/root
stop
restore_yaml
userdel member
userdel outsider
expect_machine "$before" "after stop"
