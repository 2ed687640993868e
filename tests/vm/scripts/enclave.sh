# An enclave VM on the pool, run by a plain member of `de`: one nested boot, and all that is asked while it lives.
source ./lib.sh
source ./lease_lib.sh
source ./enclave_lib.sh

IMAGE=hello-small.eif

# Prints what the enclave's server sends back for a line.
echoed() { python3 vsock_echo.py "$cid" 7000 "$1"; }

# Fails unless the enclave still answers, on its own CPUs alone. Usage: lives AFTER…
lives() {
    step "it lives after $*"
    expect_equal "$*" "$(echoed "$*")" "echo after $*"
    expect_equal root "$(</sys/fs/cgroup/enclaves.slice/cpuset.cpus.partition)" "partition after $*"
    expect_equal "$threads" "$(vcpus "$qemu")" "CPUs of the vCPU threads after $*"
    expect_equal "$online" "$(<$CPU/online)" "CPUs online after $*"
}

# Stops the load, which is too light to be everywhere, and must never have run on the enclave's CPUs.
expect_unseen() {
    local seen
    seen=$(spun)
    [[ $seen == *0* && $seen != *[67]* ]] || fail "CPUs that the host ran on: '$seen'"
}

# Changes the file, which the service must refuse, naming the lease; the pool stays. Usage: cuts CONFIG…
cuts() {
    local end standing
    end=$(journal_end)
    standing=$(snapshot)
    write_yaml "$@"
    expect_exit 1 systemctl reload $UNIT
    expect_in 'web' "$(journal_after "$end")"
    expect_machine "$standing" "after a refused reload with $*"
}

before=$(snapshot)
write_yaml 'memory_mib: 512' 'cpu_pool: 6-7'
start
standing=$(snapshot)
spin 1

step "run-enclave by a plain member of de"
as_alice "$(launch $IMAGE --enclave-name web)" >run.json
step "it is up"
id=$(part EnclaveID <run.json)
qemu=$(part ProcessID <run.json)
cid=$(part EnclaveCID <run.json)
as_alice enclave-cli describe-enclaves >described.json
for key in EnclaveID EnclaveName ProcessID EnclaveCID NumberOfCPUs CPUIDs MemoryMiB; do
    expect_equal "$(part $key <run.json)" "$(part 0.$key <described.json)" "$key in describe-enclaves"
done
expect_equal 'web [6, 7] 192 RUNNING NONE' "$(for key in EnclaveName CPUIDs MemoryMiB State Flags; do
    part 0.$key <described.json
done | xargs -d '\n')" "the enclave"

step "its CPUs and its memory are the lease's, each vCPU has one, and there is nothing else"
threads='1 6 1 7'
online=0-7
expect_equal "$threads" "$(vcpus "$qemu")" "CPUs of the vCPU threads"
expect_equal 6-7 "$(</sys/fs/cgroup/enclaves.slice/cpuset.cpus.effective)" "CPUs of the partition"
expect_exit 1 taskset --cpu-list 6 true
mapped=$(grep "bank[0-9]*/lease-${id##*-enc}" "/proc/$qemu/numa_maps")
expect_in 'kernelpagesize_kB=2048' "$mapped"
[[ $mapped =~ N1=[0-9]+ && ! $mapped =~ N0= ]] || fail "its memory is not on node 1 alone: $mapped"
memory=$(find "/proc/$qemu/fd" -lname "*/lease-${id##*-enc}*" | head -1)
expect_equal $((192 << 20)) "$(stat --dereference --format %s "$memory")" "bytes of its memory"
expect_equal '96 160' "$(pool nodes.1.hugepages.0.leased) $(pool nodes.1.hugepages.0.free)" "pages leased and free"
if ls -l "/proc/$qemu/fd" | grep -E '/dev/(sd|vd|nvme|net|dri)'; then fail "it has a disk, a NIC or a display"; fi
lives 'its start'
expect_unseen

step "a second one is refused by the limit, an outsider by name"
expect_exit 75 as_alice "$(launch $IMAGE)"
expect_in web "$said"
whose="got mallory (uid $(id -u mallory)), wanted root or alice (uid $(id -u alice)), whose enclave it is"
expect_exit 77 su mallory --command "enclave-cli terminate-enclave --enclave-id $id"
expect_in "cannot end $id: $whose" "$said"
expect_exit 77 su mallory --command "enclave-cli console --enclave-id $id"
expect_in "cannot show the console: $whose" "$said"

step "whatever becomes of the service, it lives, and no host task runs on its CPUs"
spin
systemctl restart $UNIT
lives restart
systemctl kill --signal KILL $UNIT
expect_within 120 systemctl is-active $UNIT
lives 'kill -9 of the service'
expect_unseen
spin 1
systemctl stop $UNIT
lives stop
start
lives start
systemctl daemon-reload
lives daemon-reload
systemctl daemon-reexec
lives daemon-reexec

write_yaml 'memory_mib: 640' 'cpu_pool: 4-7'
systemctl reload $UNIT
online=0-3,6-7
lives 'a reload that gave the pool a core and memory'
expect_equal '[4, 5, 6, 7] 224' "$(pool cpus) $(pool nodes.1.hugepages.0.free)" "CPUs of the pool and pages free"
write_yaml 'memory_mib: 512' 'cpu_pool: 6-7'
systemctl restart $UNIT
online=0-7
lives 'a restart that took them'
expect_equal 160 "$(pool nodes.1.hugepages.0.free)" "pages free"

step "what would cut it is refused by name"
cuts 'memory_mib: 512' 'cpu_pool: 4-5'
cuts 'memory_mib: 128' 'cpu_pool: 6-7'
write_yaml 'memory_mib: 512' 'cpu_pool: 4-5'
systemctl restart $UNIT
expect_equal 'degraded [6, 7]' "$(pool state) $(pool cpus)" "state and CPUs after a restart that would cut it"
expect_in web "$(sentence)"
write_yaml 'memory_mib: 512' 'cpu_pool: 6-7'
systemctl reload $UNIT
lives 'what was refused'
expect_equal ready "$(pool state)" "state"

step "terminated, its part is back"
as_alice enclave-cli terminate-enclave --enclave-id "$id" >ended.json
expect_equal true "$(part Terminated <ended.json)" "Terminated"
expect_equal '[]' "$(as_alice enclave-cli describe-enclaves)" "describe-enclaves"
expect_equal "" "$(ls -A /run/ali-enclaves/evm)" "run directories left"
expect_machine "$standing" "with the pool"
expect_unseen
stop
restore_yaml
expect_machine "$before" "after stop"
forget_users
