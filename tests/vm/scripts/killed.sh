# The daemon dies by SIGKILL at a chosen system call; the next start recovers, and stop gives everything back.
# Usage: killed.sh POINT [wanted]; with it, the next start has the same file, and else one that is refused.
. ./lib.sh
pages=$NODE/node0/hugepages/hugepages-2048kB/nr_hugepages
hold=/run/ali-enclaves/banks/bank0/hold
draft=/run/ali-enclaves/ledger.new
die=signal=SIGKILL

# Each point: how the machine is left there, so that it is the point it claims to be; whether the daemon dies in its
# start or its stop, the system call, and by which options of strace. How the machine is left: the ledger's phase, the
# CPUs online, the pages of node 0, and those that the bank holds, where it is mounted.
# The path filters (-P) hold for injections too, so `when=2` is the second write of a thread to that file.
case ${1:?a point} in
    before-the-ledger)
        left="none 0-7 0 -"
        life=start call=rename options=(-P "$draft" --inject=rename:$die)
        ;;
    before-the-pages)
        left="taking 0-7 0 -"
        life=start call=write options=(-P "$pages" --inject=write:$die)
        ;;
    before-the-mount)
        left="taking 0-7 16 -"
        life=start call=connect options=(--inject=connect:$die) # to systemd
        ;;
    in-the-mount)
        left="taking 0-7 16 0"
        # It greets systemd, has its answer after a while, asks for the mount, and dies before it reads any more.
        life=start call=sendmsg,recvmsg options=(--inject=sendmsg:delay_exit=1s:when=1 --inject=recvmsg:$die:when=2)
        ;;
    before-the-hold-file)
        left="taking 0-7 16 0"
        life=start call=fallocate options=(--inject=fallocate:$die)
        ;;
    between-two-cpus)
        left="taking 0-1,3-7 16 16"
        life=start call=write options=(-P "$CPU/cpu3/online" --inject=write:$die)
        ;;
    before-the-commit)
        left="taking 0-1,4-7 16 16"
        life=start call=rename options=(-P "$draft" --inject=rename:$die:when=2)
        ;;
    in-the-undo)
        left="giving 0-7 16 -"
        life=start call=fallocate,write
        options=(-P "$hold" -P "$pages" --inject=fallocate:error=EIO --inject=write:$die:when=2)
        ;;
    in-the-stop-between-two-cpus)
        left="giving 0-2,4-7 16 16"
        life=stop call=write options=(-P "$CPU/cpu3/online" --inject=write:$die)
        ;;
    in-the-stop-before-the-pages)
        left="giving 0-7 16 16"
        life=stop call=write options=(-P "$pages" --inject=write:$die)
        ;;
    in-the-stop-before-the-last-word)
        left="giving 0-7 0 -"
        life=stop call=unlink options=(-P "$LEDGER" --inject=unlink:$die)
        ;;
    *) fail "no such point: $1" ;;
esac
recovery=${2:-refused}
before=$(snapshot)
with=$(with_pool "$before" 0-1,4-7 0 16)
good=("memory_mib: 32" "cpu_pool: 2-3")

# Prints how the daemon left the machine.
as_left() {
    local phase=none held=-
    [ ! -e $LEDGER ] || phase=$(part phase <$LEDGER)
    ! mountpoint --quiet "${hold%/*}" ||
        held=$(df --block-size 2M --output=used "${hold%/*}" | awk 'END { print $1 }')
    echo "$phase $(<$CPU/online) $(counter 0 nr_hugepages) $held"
}

attach() {
    strace --follow-forks --attach "$daemon" --output trace --trace $call "${options[@]}" 2>attached &
    expect_within 60 grep -q "attached" attached
}

step "the daemon dies in its $life, $1"
# It reads its file from a pipe, and waits there until strace is attached: an interpreter that starts is slow to trace.
mkfifo wanted.yaml
ali-enclaves-allocator serve wanted.yaml >log 2>&1 &
daemon=$!
expect_within 60 [ -S /run/ali-enclaves/allocator.sock ]
[ $life = stop ] || attach
printf '%s\n' "${good[@]}" >wanted.yaml
if [ $life = stop ]; then
    expect_within 60 grep -q "^pool ready" log
    expect_machine "$with" "with the pool"
    attach
    kill $daemon
fi
died=0
wait $daemon || died=$?
cat log trace
expect_equal 137 $died "exit status of the daemon"
for _ in {1..50}; do # what systemd was asked for it does all the same
    [ "$(as_left)" != "$left" ] || break
    sleep 0.1
done
expect_equal "$left" "$(as_left)" "phase, online CPUs, pages and held pages as the daemon left them"

if [ "$recovery" = wanted ]; then
    step "a start with the same file recovers, and the pool is as wanted"
    write_yaml "${good[@]}"
    start
    expect_machine "$with" "with the pool"
    stop
else
    step "a start with a file that is refused recovers all the same"
    write_yaml "memory_mib: 32" "cpu_pool: none"
    refuse 78
    echo "$said"
fi
expect_machine "$before" "in the end"
expect_nothing_left
restore_yaml
