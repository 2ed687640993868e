# Launches that end badly, collide or are killed half-way: the pool is whole after each. No enclave here has more
# than a kernel that halts, so nobody waits for a boot.
source ./lib.sh
source ./lease_lib.sh
source ./enclave_lib.sh

# Starts a launch of alice's in the background, whose process is $!. Usage: launching NAME IMAGE [OPTION…]
launching() {
    setpriv --reuid alice --regid alice --init-groups bash -c "$(launch "${@:2}" --enclave-name "$1")" \
        >"$1.json" 2>"$1.err" &
}

alice_runs_nothing() { ! pgrep --uid alice; }

# Kills a launcher when it has said that it is in a phase; what is up may live on. Usage: killed_while PHASE IMAGE
killed_while() {
    step "kill -9 of the launcher while $1"
    launching dead "$2"
    expect_within 120 grep "^enclave-cli: $1" dead.err
    kill -KILL $! || true # it may just have ended by itself
    wait $! 2>/dev/null || true
    [ "$1" != up ] || as_alice enclave-cli terminate-enclave --all >ended.json
    expect_whole
    expect_within 60 alice_runs_nothing
    expect_equal "$standing" "$(snapshot)" "the machine with the pool after a kill while $1"
}

before=$(snapshot)
write_yaml 'memory_mib: 256' 'cpu_pool: 4-7' 'max_enclaves: 2'
start
standing=$(snapshot)
./tiny_image.py tiny.eif '{}' 0
./tiny_image.py slow.eif '{}' 40
./tiny_image.py mute.eif '{"heartbeat": true}' 0

step "a bad image and an outsider are refused before anything is taken"
head --bytes 1000000 slow.eif >cut.eif
cp tiny.eif mine.eif && chmod 600 mine.eif
for bad in cut.eif mine.eif .; do
    expect_exit 65 as_alice "$(launch $bad)"
    expect_in 'nothing was taken from the pool' "$said"
done
expect_exit 77 su mallory --command "$(launch tiny.eif)"
expect_whole

killed_while 'reading image' slow.eif
killed_while 'taking cores and memory' tiny.eif
killed_while 'starting' tiny.eif
killed_while 'waiting for its heartbeat' mute.eif
killed_while up tiny.eif

# Starts the launches "one" and "two" at once and leaves their exit statuses in $ended.
both() {
    local one two
    ended=
    launching one tiny.eif
    one=$!
    launching two tiny.eif
    two=$!
    for pid in $one $two; do wait "$pid" && ended+="0 " || ended+="$? "; done
}

step "two at once with room for one: one runs, the other is told what is missing and who has it"
both
case $ended in
'0 75 ') won=one lost=two ;;
'75 0 ') won=two lost=one ;;
*) fail "exit statuses $ended: $(cat one.err two.err)" ;;
esac
expect_in "cannot lend 192 MiB: node 1: 64 MiB free; held by $won (CPUs " "$(<$lost.err)"
qemu=$(part ProcessID <$won.json)
expect_equal RUNNING "$(described 0.State)" "state"

step "kill -9 of QEMU"
kill -KILL "$qemu"
expect_whole
expect_machine "$standing" "after kill -9 of QEMU"

step "two at once with room for two: both run, apart from each other"
write_yaml 'memory_mib: 512' 'cpu_pool: 4-7' 'max_enclaves: 2'
systemctl reload $UNIT
standing=$(snapshot)
both
expect_equal '0 0 ' "$ended" "exit statuses: $(cat one.err two.err)"
expect_equal '1 4 1 5;1 6 1 7' "$(for name in one two; do vcpus "$(part ProcessID <$name.json)"; done | sort | paste -sd';')" \
    "CPUs of the vCPU threads"
[ "$(part EnclaveCID <one.json)" != "$(part EnclaveCID <two.json)" ] || fail "both have one CID"
as_alice enclave-cli terminate-enclave --enclave-name one >ended.json
expect_equal "$(part EnclaveID <one.json)" "$(part EnclaveID <ended.json)" "EnclaveID"
expect_equal "$(part EnclaveID <two.json)" "$(described 0.EnclaveID)" "the one that is left"

step "stopped with an enclave, which then ends, then started: whole"
systemctl stop $UNIT
expect_equal "$(part CPUIDs <two.json)" "[$(sed 's/-/, /' /sys/fs/cgroup/enclaves.slice/cpuset.cpus.effective)]" \
    "CPUs of the partition"
kill -KILL "$(part ProcessID <two.json)"
expect_within 60 is_gone "$(part ProcessID <two.json)"
start
expect_whole
expect_machine "$standing" "with the pool"
as_alice enclave-cli terminate-enclave --all >ended.json
expect_equal '[]' "$(<ended.json)" "ended"

rm -r /run/ali-enclaves/evm/* # what those that were killed left, for alice's next launch to clear away
stop
restore_yaml
expect_machine "$before" "after stop"
forget_users
