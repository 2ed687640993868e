# Who may hold and end a lease, and holders that fork, drop privileges, grow their memory, or whose pid is another's.
source ./lib.sh
source ./lease_lib.sh

before=$(snapshot)
chmod 755 .
useradd --no-create-home --groups de member
useradd --no-create-home outsider
write_yaml "memory_mib: 48" "cpu_pool: 2-7" "max_enclaves: 3"
start
standing=$(snapshot)
user() { as=(setpriv --reuid "$1" --regid "$1" "${@:2}"); }
release() { "${as[@]}" python3 varlink.py call Release "{\"lease\": \"$1\"}"; }

step "who is not in the group is told what it takes"
user outsider --init-groups
expect_exit 1 "${as[@]}" python3 holder.py 2 8 </dev/null
expect_in NotPermitted "$said"
expect_in 'wanted root or group de' "$said"
user member --clear-groups
expect_exit 1 "${as[@]}" python3 holder.py 2 8 </dev/null
expect_in NotPermitted "$said"

step "a member by a supplementary group gets a lease that is its own; others may not end it, it and root may"
for owner in member root; do
    user member --init-groups
    take web 2 8 --map
    expect_equal "$(id -u member)" "$(lease holder.uid)" "uid of the holder"
    expect_equal true "$(lease clear)" "every page is clear"
    id=$(lease id)
    expect_equal "root member 660 8388608" "$(stat --format '%U %G %a %s' /run/ali-enclaves/banks/bank*/"lease-$id")" "the memory"
    user outsider --init-groups
    expect_exit 1 release "$id"
    expect_in "got uid $(id -u outsider), wanted root or uid $(id -u member)" "$said"
    as=()
    [ $owner = root ] || user member --init-groups
    expect_exit 0 release "$id"
    end web
    expect_whole
done
as=()

step "a holder counts as what it was when it connected, whatever it becomes"
cat >drop.py <<'PY'
import os, pwd, socket, sys
import holder
uid = pwd.getpwnam("outsider").pw_uid
connect = socket.socket.connect
def and_drop(connection, address):
    connect(connection, address)
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
socket.socket.connect = and_drop
reply, fds = holder.acquire({"cpu_count": 2, "memory_mib": 8, "online": False})
print(reply["parameters"]["lease"]["holder"]["uid"], os.getuid() == uid, os.fstat(fds[0]).st_gid, flush=True)
sys.stdin.read()
PY
mkfifo in.drop
python3 drop.py <in.drop >dropped &
takers[drop]=$!
exec {pipes[drop]}>in.drop
expect_within 60 test -s dropped
expect_equal "0 True 0" "$(<dropped)" "uid of the holder, whether it is another now, gid of the memory"
end drop
expect_whole

step "a holder that leaves a child and a daemon on its CPUs: they end first, then the CPUs go offline"
cat >forker.py <<'PY'
import os, subprocess
import holder
reply, _ = holder.acquire({"cpu_count": 2, "memory_mib": 8, "online": True})
subprocess.Popen(["python3", "spinner.py"], stdout=open("forked", "w"))
if not os.fork():
    os.setsid()
    if not os.fork():
        os.execlp("sleep", "sleep", "998877")
    os._exit(0)
os.wait()
print(*reply["parameters"]["lease"]["cpus"])
PY
lent=$(python3 forker.py)
expect_whole
expect_exit 1 pgrep -f 'sleep 998877'
expect_exit 1 pgrep -f spinner.py
for cpu in $(<forked); do
    [[ " $lent " == *" $cpu "* ]] || fail "a child of the holder ran on CPU $cpu, not on $lent only"
done

step "a holder that grows its memory while pages change hands, and one who has kept a dead holder's"
mkfifo in.grower in.outside
python3 grower.py 8 <in.grower >grown &
grower=$!
exec {one}>in.grower
python3 grower.py --outside 8 <in.outside >kept &
outside=$!
exec {two}>in.outside
expect_within 60 test -s grown
expect_within 60 test -s kept
expect_within 60 leases_are 1
python3 cycles.py 2 3 1 8
bytes() { stat --format '%s %b' "$@" | awk '{ print $1, $2 * 512 }'; }
has() { [ "$(bytes /run/ali-enclaves/banks/bank*/"lease-$1")" = "$2" ]; }
expect_within 60 has "$(<grown)" "8388608 8388608"
expect_within 60 has "$(<kept)" "0 0"
exec {one}>&- {two}>&-
wait $grower $outside
echo "a page more for a moment: $(tail -n1 grown) times, $(tail -n1 kept) times by the one outside"
take next 2 8
end next
expect_whole

step "a pid that is another's when the service comes back"
take web 2 8
pid=${takers[web]}
systemctl stop $UNIT
murder web
stranger=0
for _ in $(seq 20); do
    echo $((pid - 1)) >/proc/sys/kernel/ns_last_pid
    sleep 1000 &
    stranger=$!
    [ $stranger != "$pid" ] || break
    kill $stranger
done
expect_equal "$pid" "$stranger" "pid of the stranger"
start
expect_whole
kill $stranger || fail "the stranger was ended"
expect_equal "$standing" "$(snapshot)" "the machine with the pool"

stop
restore_yaml
userdel member
userdel outsider
expect_machine "$before" "after stop"
