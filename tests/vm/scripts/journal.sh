# The journal stalls, stops, or has no room: the service runs on, answers and feeds its watchdog; what the journal did
# not take is counted, and told when it goes on.
. ./lib.sh
before=$(snapshot)
dropin=/run/systemd/system/$UNIT.d
mkdir -p $dropin
printf '[Service]\nWatchdogSec=20\n' >$dropin/watchdog.conf
systemctl daemon-reload
write_yaml "memory_mib: 16" "cpu_pool: 2-3"
start
with=$(snapshot)
pid=$(unit MainPID)

# Reloads so many times a file that is refused, each of which the service logs in some thousand bytes.
refuse_files() {
    mapfile -t unknown < <(seq --format 'no_such_key_of_the_file_that_any_version_ever_knew_%g: 1' 30)
    write_yaml "${unknown[@]}"
    python3 varlink.py reloads "$1" ReloadFailed
    write_yaml "memory_mib: 16" "cpu_pool: 2-3"
}

# Fails unless the service, whose file was refused, answers and feeds its watchdog. Usage: expect_alive WHEN
fed() { unit WatchdogTimestampMonotonic; }
expect_alive() {
    local last
    last=$(fed)
    expect_equal degraded "$(pool state)" "state $1"
    expect_within 30 sh -c "[ \$(systemctl show --property WatchdogTimestampMonotonic --value $UNIT) != $last ]"
    expect_equal degraded "$(pool state)" "state $1"
}

# Fails unless a reload makes the service write a line that fits: a text for grep -E.
told() { journal_after "$end" | grep -qxE "$1"; }
expect_told() {
    systemctl reload $UNIT
    expect_within 20 told "$1"
}

step "stalled, it takes no more than its socket holds"
end=$(journal_end)
journald=$(systemctl show --property MainPID --value systemd-journald)
kill -STOP "$journald"
refuse_files 60
expect_alive "while the journal is stalled"
kill -CONT "$journald"
expect_told "the journal did not take [0-9]+ records"

step "stopped"
end=$(journal_end)
sockets=$(systemctl list-units --plain --no-legend 'systemd-journald*.socket' | cut -d' ' -f1)
systemctl stop $sockets systemd-journald.service
refuse_files 3
expect_alive "while the journal is stopped"
systemctl start $sockets systemd-journald.service
expect_told "the journal did not take 3 records"

step "without room, it takes all and keeps none, or does not even start"
end=$(journal_end)
for disk in /var/log/journal /run/log; do
    mount -t tmpfs -o size=64k tmpfs $disk
    dd if=/dev/zero of=$disk/full bs=64k count=1 status=none
done
systemctl restart systemd-journald.service || echo "journald does not start without room"
refuse_files 3
expect_alive "while the journal has no room"
expect_equal "" "$(find /var/log/journal /run/log -name '*.journal')" "files of the journal"
umount /var/log/journal /run/log
systemctl reset-failed 'systemd-journald*'
systemctl start $sockets
systemctl restart systemd-journald.service
expect_told "pool ready: .*"

step "the same process, the same pool"
expect_equal "$pid 0" "$(unit MainPID) $(unit NRestarts)" "process and restarts"
expect_equal "$with" "$(snapshot)" "the machine"
stop
expect_machine "$before" "after stop"
rm -r $dropin
systemctl daemon-reload
restore_yaml
