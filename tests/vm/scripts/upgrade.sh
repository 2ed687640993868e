# An upgrade, a downgrade and removals with an enclave, which never notices.
# Usage: upgrade.sh deb|rpm
. ./lib.sh
. ./lease_lib.sh
. ./enclave_lib.sh
. ./package_lib.sh

if [ "$KIND" = rpm ]; then
    step "the other kind of package"
    purge_deb
    put_in "$THIS"
fi
old=$(version)
before=$(snapshot)
write_yaml "# edited" "memory_mib: 512" "cpu_count: 2"
start

step "an upgrade restarts the service, and the enclave goes on"
./tiny_image.py tiny.eif '{}' 0
as_alice "$(launch tiny.eif --enclave-name web)" >run.json
qemu=$(part ProcessID <run.json)
id=$(part EnclaveID <run.json | sed 's/.*-enc//')
daemon=$(unit MainPID)
memory() {
    stat --format '%U %G %s %b' /run/ali-enclaves/banks/bank*/"lease-$id"
    grep --only-matching "/lease-$id" "/proc/$qemu/maps" | uniq
}
expect_enclave() {
    [ -d "/proc/$qemu" ] || fail "QEMU ended $1"
    expect_equal "0::/enclaves.slice/evm-$id.scope" "$(<"/proc/$qemu/cgroup")" "QEMU's cgroup $1"
    expect_equal '1 2 1 3' "$(vcpus "$qemu")" "CPUs of the vCPU threads $1"
    expect_equal root "$(<$PARTITION)" "the partition $1"
    expect_equal 0-1,4-7 "$(</sys/fs/cgroup/cpuset.cpus.effective)" "CPUs of everything else $1"
    expect_equal "root alice $((192 << 20)) $((192 << 11)) /lease-$id" "$(memory | xargs)" "the memory $1"
}
expect_enclave "before the upgrade"
put_in "$NEXT"
expect_equal "$old+next" "$(version)" "version"
expect_in "$old+next" "$(ali-enclaves-allocator --version)"
expect_equal active "$(unit ActiveState)" "state"
[ "$daemon" != "$(unit MainPID)" ] || fail "the service was not restarted"
expect_equal "# edited" "$(head -1 $YAML)" "the settings"
expect_in "1 lease: web (CPUs 2-3, 192 MiB)" "$(sentence)"
expect_equal RUNNING "$(described 0.State)" "the enclave"
expect_enclave "after the upgrade"

step "a ledger of a later format: no way back, and nothing is changed"
systemctl stop $UNIT
format=$(sed -n 's/^ "version": \([0-9]*\)$/\1/p' $LEDGER)
later=$((format + 1))
sed -i "s/^ \"version\": $format\$/ \"version\": $later/" $LEDGER
expect_exit 1 put_in "$THIS"
expect_in "cannot go back to this version: $LEDGER has format $later, and this version understands $format" "$said"
expect_equal "$old+next" "$(version)" "version"
expect_enclave "after the refusal"

step "one of this format: the way back is open"
sed -i "s/^ \"version\": $later\$/ \"version\": $format/" $LEDGER
put_in "$THIS"
expect_equal "$old" "$(version)" "version"
expect_enclave "after the downgrade"
start

step "removal: the rest is given back, the enclave goes on, it is said how to end it, and nothing waits that could not run"
expect_exit 0 take_out
expect_in "set aside still: CPUs 2-3 (1 core) on node 0" "$said"
expect_in "systemctl stop evm-$id.scope" "$said"
expect_in "until it is installed again and ali-enclaves-allocator give-back has run, or until a reboot" "$said"
if grep "given back when they end" <<<"$said"; then fail "nobody is left to do so"; fi
who_waits() { systemctl list-units --all --plain --no-legend 'ali-enclaves-give-back@*' 'system-ali*'; }
expect_equal "" "$(who_waits)" "what waits"
[ "$KIND" = rpm ] || purge_deb
[ -e $LEDGER ] || fail "the ledger is gone, and with it the way back"
expect_enclave "after the removal"

step "installed again, give-back has the enclave's end waited for"
put_in "$THIS"
ali-enclaves-allocator give-back
expect_within 60 systemctl is-active "ali-enclaves-give-back@$id.service"

step "a removal while that gives back: it waits until all is the host's again"
exec {lock}>/run/ali-enclaves/lock
flock "$lock"
kill -KILL "$qemu"
expect_within 60 pgrep --full 'ali-enclaves-allocator give-back'
take_out >removed 2>&1 &
expect_within 60 pgrep --full 'systemctl stop ali-enclaves-give-back'
[ -e $LEDGER ] || fail "it was given back without the lock"
flock --unlock "$lock"
exec {lock}>&-
wait $! || fail "the removal failed: $(<removed)"
expect_equal "" "$(who_waits)" "what waits"
[ ! -e /run/ali-enclaves ] || fail "left behind: $(find /run/ali-enclaves)"
expect_machine "$before" "in the end"

[ "$KIND" = deb ] || rm -rf /etc/ali-enclaves
put_in "$DEB"
restore_yaml
forget_users
