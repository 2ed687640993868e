# An enclave VM on the pool, run by a plain member of `de`: one nested boot, and everything that is asked of it.
source ./lib.sh
source ./lease_lib.sh

UP_SECONDS=500

as_alice() { su alice --command "$*"; }
enclave() { as_alice enclave-cli describe-enclaves | part "0.$1"; }

# Prints what the enclave's server sends back for a line.
echoed() { python3 vsock_echo.py "$cid" 7000 "$1"; }

useradd --groups de alice
useradd mallory
before=$(snapshot)
write_yaml 'memory_mib: 512' 'cpu_count: 2'
start
standing=$(snapshot)
chmod 755 . && chmod 644 hello.eif

step "an outsider and a bad image are refused before anything is taken"
head --bytes 100000 hello.eif >cut.eif && chmod 644 cut.eif
expect_exit 65 as_alice enclave-cli run-enclave --cpu-count 2 --memory 192 --eif-path "$PWD/cut.eif"
expect_exit 77 su mallory --command "enclave-cli run-enclave --cpu-count 2 --memory 192 --eif-path $PWD/hello.eif"
expect_whole

step "run-enclave"
spin
as_alice timeout $UP_SECONDS enclave-cli run-enclave --accel tcg --enclave-name web --cpu-count 2 --memory 192 \
    --eif-path "$PWD/hello.eif" >run.json
expect_equal 2 "$(part NumberOfCPUs <run.json)" "CPUs"
id=$(part EnclaveID <run.json)
qemu=$(part ProcessID <run.json)
cid=$(part EnclaveCID <run.json)
expect_equal "$id" "$(enclave EnclaveID)" "id in describe-enclaves"
expect_equal RUNNING "$(enclave State)" "state"
expect_equal 'hello enclave' "$(echoed 'hello enclave')" "echo"

step "its vCPUs are one each on the lease's CPUs, and its memory is the lease's"
vcpus=$(grep -l '^CPU [0-9]*/' /proc/"$qemu"/task/*/comm | xargs -n1 dirname)
expect_equal '2 3' "$(for task in $vcpus; do taskset --cpu-list --pid "${task##*/}"; done | sed 's/.*: //' | sort | xargs)" \
    "CPUs of the vCPU threads"
expect_equal 96 "$(pool nodes.0.hugepages.0.leased)" "pages leased"
grep -q "bank0/lease-${id##*-enc}" "/proc/$qemu/maps"
expect_exit 1 taskset --cpu-list 2 true
if ls -l "/proc/$qemu/fd" | grep -E '/dev/(sd|vd|nvme|net|dri)'; then fail "it has a disk, a NIC or a display"; fi

lives() {
    expect_equal 'still here' "$(echoed 'still here')" "echo after $*"
    expect_equal isolated "$(</sys/fs/cgroup/enclaves.slice/cpuset.cpus.partition)" "partition after $*"
}

step "it never notices what happens to the service"
systemctl kill --signal KILL $UNIT
expect_within 60 systemctl is-active $UNIT
lives 'kill -9 of the service'
systemctl stop $UNIT
lives stop
start
lives start
systemctl daemon-reload
lives daemon-reload

step "a change that would cut it is refused by name, and a second one by the limit"
write_yaml 'memory_mib: 128' 'cpu_count: 2'
expect_exit 1 systemctl reload $UNIT
expect_in web "$(journalctl --unit $UNIT --lines 5 --output cat --no-pager)"
expect_exit 75 as_alice enclave-cli run-enclave --accel tcg --cpu-count 2 --memory 192 --eif-path "$PWD/hello.eif"
expect_in 'web' "$said"
expect_exit 77 su mallory --command "enclave-cli terminate-enclave --enclave-id $id"

step "terminated, its part is back and no host task ever ran on its CPUs"
as_alice enclave-cli terminate-enclave --enclave-id "$id" >ended.json
expect_equal true "$(part Terminated <ended.json)" "Terminated"
expect_equal '[]' "$(as_alice enclave-cli describe-enclaves)" "describe-enclaves"
expect_whole
expect_equal "$standing" "$(snapshot)" "the machine with the pool"
expect_equal '0 1 4 5 6 7' "$(spun)" "CPUs that the host ever ran on"
expect_equal "" "$(ls -A /run/ali-enclaves/evm)" "run directories left"

stop
restore_yaml
expect_machine "$before" "after stop"
userdel --remove alice 2>/dev/null || userdel alice
userdel mallory
