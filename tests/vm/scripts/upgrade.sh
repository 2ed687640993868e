# An upgrade, a downgrade and a removal with a lease, whose holder never notices.
# Usage: upgrade.sh deb|rpm
. ./lib.sh
. ./lease_lib.sh
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

step "an upgrade restarts the service, and the lease goes on"
take web 2 192 --online
scope=/sys/fs/cgroup$(lease cgroup | sed 's/^0:://')
id=$(lease id)
daemon=$(unit MainPID)
expect_lease() {
    kill -0 "${takers[web]}"
    expect_equal "${takers[web]}" "$(<"$scope/cgroup.procs")" "in the scope $1"
    expect_equal 2-3 "$(sed -n 's/^Cpus_allowed_list:\t//p' /proc/"${takers[web]}"/status)" "the holder's CPUs $1"
}
expect_lease "before the upgrade"
put_in "$NEXT"
expect_equal "$old+next" "$(version)" "version"
expect_in "$old+next" "$(ali-enclaves-allocator --version)"
expect_equal active "$(unit ActiveState)" "state"
[ "$daemon" != "$(unit MainPID)" ] || fail "the service was not restarted"
expect_equal "# edited" "$(head -1 $YAML)" "the settings"
expect_in "1 lease: web (CPUs 2-3, 192 MiB)" "$(sentence)"
expect_lease "after the upgrade"

step "a ledger of a later format: no way back, and nothing is changed"
systemctl stop $UNIT
sed -i 's/^ "version": 1$/ "version": 2/' $LEDGER
expect_exit 1 put_in "$THIS"
expect_in "cannot go back to this version: $LEDGER has format 2, and this version understands 1" "$said"
expect_equal "$old+next" "$(version)" "version"
expect_lease "after the refusal"

step "one of this format: the way back is open"
sed -i 's/^ "version": 2$/ "version": 1/' $LEDGER
put_in "$THIS"
expect_equal "$old" "$(version)" "version"
expect_lease "after the downgrade"
start

step "removal: the rest is given back, the lease goes on, and it is said how to end it"
expect_exit 0 take_out
expect_in "set aside still: CPUs 2-3 (1 core) on node 0" "$said"
expect_in "systemctl stop evm-$id.scope" "$said"
expect_in "install it again and run ali-enclaves-allocator give-back, or reboot" "$said"
expect_lease "after the removal"
[ "$KIND" = rpm ] || purge_deb
[ -e $LEDGER ] || fail "the ledger is gone, and with it the way back"
expect_lease "after the purge"

step "installed again, it gives all of that back when the lease has ended"
murder web
put_in "$THIS"
ali-enclaves-allocator give-back
none_waits() { [ -z "$(systemctl list-units --all --plain --no-legend 'ali-enclaves-give-back@*')" ]; }
expect_within 60 none_waits
expect_nothing_left
expect_machine "$before" "in the end"
if [ "$KIND" = rpm ]; then
    take_out
    rm -rf /etc/ali-enclaves
    put_in "$DEB"
fi
restore_yaml
