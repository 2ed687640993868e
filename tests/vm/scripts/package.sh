# A package's whole life: install, edit, start, enable, reboot, an enclave, removal, and nothing of it is left.
# Usage: package.sh deb|rpm [rebooted]
. ./lib.sh
. ./lease_lib.sh
. ./package_lib.sh
KEPT=/var/tmp/package

# Prints every file, with its rights and in /etc its contents, that no package manager keeps for itself; and the devices.
files() {
    find /etc /usr /var -xdev ! -type d ! -path '/var/*/dpkg/*' ! -path '/var/lib/rpm/*' ! -path '/var/tmp/*' \
        ! -path '/var/log/*' ! -path '/var/lib/systemd/*' ! -path '/etc/*-' -printf '%M %u:%g %p %l\n' | sort
    find /etc -xdev -type f ! -path '/etc/*-' -exec sha256sum {} + | sort
    udevadm settle
    getfacl --absolute-names --omit-header /dev/vhost-vsock
}

before_reboot() {
    step "purged, the package that the guest came with leaves nothing"
    purge_deb
    expect_no_file
    mkdir $KEPT
    files >$KEPT/files
    snapshot >$KEPT/machine

    step "an installation starts nothing, and lets nothing start"
    put_in "$THIS"
    expect_equal inactive "$(unit ActiveState)" "state"
    expect_equal disabled "$(unit UnitFileState)" "enablement"
    expect_same "$(<$KEPT/machine)" "$(snapshot)" "the machine with the package"
    expect_in "$(version)" "$(enclave-cli --version)"
    expect_in "$(version)" "$(ali-enclaves-allocator --version)"
    udevadm settle
    expect_equal 660:root:de "$(stat --format %a:%U:%G /dev/vhost-vsock)" "the device"
    systemctl preset $UNIT
    expect_equal disabled "$(unit UnitFileState)" "enablement by preset"

    step "edited, started, enabled"
    write_yaml "# edited" "memory_mib: 512" "cpu_count: 2"
    start
    systemctl enable $UNIT
    expect_in "512 MiB in 256×2M" "$(sentence)"
    trap - EXIT
    exit 194
}

after_reboot() {
    step "the pool stood before multi-user.target was reached"
    expect_in "512 MiB in 256×2M; no leases" "$(sentence)"
    local ready reached
    ready=$(unit ActiveEnterTimestampMonotonic)
    reached=$(systemctl show --property ActiveEnterTimestampMonotonic --value multi-user.target)
    [ "$ready" -gt 0 ] && [ "$ready" -le "$reached" ] || fail "ready at $ready µs, multi-user.target at $reached µs"

    step "a plain member of de runs an enclave, sees it and ends it"
    expect_exit 0 ali-enclaves-allocator status
    ./tiny_image.py tiny.eif '{}' 0
    member() { setpriv --reuid nobody --regid nogroup --groups de enclave-cli "$@"; }
    member run-enclave --accel tcg --cpu-count 2 --memory 192 --eif-path "$PWD/tiny.eif" --enclave-name web >run.json
    expect_equal '[2, 3]' "$(part CPUIDs <run.json)" "CPUs"
    expect_equal RUNNING "$(member describe-enclaves | part 0.State)" "state"
    member terminate-enclave --enclave-id "$(part EnclaveID <run.json)" >ended.json
    expect_equal true "$(part Terminated <ended.json)" "ended"
    expect_whole

    step "the edit is the one thing that differs from what was installed"
    case $KIND in
    deb) said=$(dpkg --verify enclave-cli | grep -v /usr/share/ || true) ;; # of which the guest leaves much out
    rpm) said=$(rpm --verify --nodeps enclave-cli || true) ;;
    esac
    expect_equal $YAML "$(sed 's/.* //' <<<"$said")" "what is not as it was installed"

    step "removed while it is enabled, and after a crash that nobody made good: all is given back all the same"
    mkdir /run/systemd/system/$UNIT.d
    printf '[Service]\nRestart=no\n' >/run/systemd/system/$UNIT.d/crash.conf
    systemctl daemon-reload
    systemctl kill --signal KILL $UNIT
    expect_within 20 systemctl is-failed $UNIT
    [ -e $LEDGER ] || fail "the crash left nothing"
    rm -r /run/systemd/system/$UNIT.d
    take_out
    systemctl reset-failed
    expect_equal "" "$(pgrep -f ali-enclaves-allocator || true)" "the service"
    expect_same "$(<$KEPT/machine)" "$(snapshot)" "the machine without the package"
    case $KIND in
    deb) expect_equal "# edited" "$(head -1 $YAML)" "the settings" && purge_deb ;;
    rpm) expect_equal "# edited" "$(head -1 $YAML.rpmsave)" "the settings" && rm -r /etc/ali-enclaves ;;
    esac
    expect_no_file
    expect_same "$(<$KEPT/files)" "$(files)" "the files"

    step "the guest as it came; its settings are new, so there is no need of restore_yaml"
    rm -r $KEPT
    put_in "$DEB"
}

if [ "${2:-}" = rebooted ]; then after_reboot; else before_reboot; fi
