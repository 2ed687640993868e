#!/bin/bash
# The main job, command by command: a pool is set aside, looked at, made bigger, lent to an enclave, and given back.
set -euo pipefail

say() { printf '\n\033[1m# %s\033[0m\n' "$*"; }
run() { printf '\033[36m$ %s\033[0m\n' "$*"; bash -c "$*"; }
# Waits a minute or two, and shows that it does.
slowly() {
    while sleep 5; do printf . >&2; done &
    local dots=$! status=0
    run "$*" || status=$?
    kill $dots
    return $status
}
fails() { run "$*" && { echo "demo: this should have failed" >&2; exit 1; } || echo "(refused, as it should be)"; }

counters='grep . /sys/devices/system/node/node*/hugepages/hugepages-2048kB/nr_hugepages'
before=$(cat /sys/devices/system/cpu/online; eval "$counters")

say 'The machine: two nodes, two cores each, two hyper-threads each.'
run 'lscpu --extended=CPU,NODE,CORE,ONLINE'
run "$counters"

say 'What the pool shall be. This is the file that the package installs.'
run 'cat /etc/ali-enclaves/allocator.yaml'
run 'ali-enclaves-allocator plan'

say 'Start the service: whole cores go offline, hugepages are reserved and held.'
run 'systemctl start ali-enclaves-allocator.service'
run 'systemctl status ali-enclaves-allocator.service --no-pager --lines=4'
run 'ali-enclaves-allocator status'
run 'cat /sys/devices/system/cpu/online'
run "$counters"

say 'The host can no longer use a CPU of the pool.'
fails 'taskset --cpu-list 2 true'

say 'Nor its memory: every page is held, so nobody else gets one.'
run 'df -h /run/ali-enclaves/banks/bank0'
fails 'python3 -c "import mmap; mmap.mmap(-1, 2 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000)"'

say 'A file with a mistake costs nothing: the pool stays, and the mistake is named.'
run 'sed -i "s/^cpu_count: 2/cpu_count: 3/" /etc/ali-enclaves/allocator.yaml'
fails 'systemctl reload ali-enclaves-allocator.service'
fails 'ali-enclaves-allocator check'

say 'A bigger pool: edit the file, restart. Four CPUs fit on node 1 only, so it moves there.'
run 'sed -i "s/^cpu_count: 3/cpu_count: 4/; s/^memory_mib: 1024/memory_mib: 1280/" /etc/ali-enclaves/allocator.yaml'
run 'systemctl restart ali-enclaves-allocator.service'
run 'ali-enclaves-allocator status'

say 'An enclave: alice is in the group de and needs no sudo. Booting takes a minute or two: it is emulated twice here.'
useradd --groups de alice
slowly 'su alice --command "enclave-cli run-enclave --cpu-count 2 --memory 192 --eif-path hello-small.eif" | tee enclave.json'
field() { python3 -c "import json; print(json.load(open('enclave.json'))['$1'])"; }
cid=$(field EnclaveCID) id=$(field EnclaveID) cpus=$(field CPUIDs | tr -d '[] ')
run 'su alice --command "enclave-cli describe-enclaves"'

say 'It is reached over vsock only. Its server sends back every line.'
run "python3 vsock_echo.py $cid 7000 'hello, enclave'"

say 'Its CPUs are online, but in a partition of their own: the host still cannot touch them.'
run 'cat /sys/devices/system/cpu/online'
run 'cat /sys/fs/cgroup/enclaves.slice/cpuset.cpus.partition /sys/fs/cgroup/enclaves.slice/cpuset.cpus.effective'
fails "taskset --cpu-list ${cpus%%,*} true"
run 'ali-enclaves-allocator status'

say 'Its end: the pool is whole again.'
run "su alice --command 'enclave-cli terminate-enclave --enclave-id $id'"
run 'ali-enclaves-allocator status'

say 'Stop: everything goes back to the host.'
run 'systemctl stop ali-enclaves-allocator.service'
fails 'ali-enclaves-allocator status'
run 'cat /sys/devices/system/cpu/online'
run "$counters"

after=$(cat /sys/devices/system/cpu/online; eval "$counters")
[ "$before" = "$after" ] || { echo "demo: the machine is not as it was" >&2; exit 1; }
say 'The machine is exactly as it was before.'
