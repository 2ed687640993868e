# The daemon dies by SIGKILL at a chosen system call; the next start recovers, and stop gives everything back.
# Usage: killed.sh POINT [wanted]; with it, the next start has the same file, and else one that is refused.
. ./lib.sh
pages=$NODE/node0/hugepages/hugepages-2048kB/nr_hugepages
hold=/run/ali-enclaves/bank0/hold
draft=/run/ali-enclaves/ledger.new
die=signal=SIGKILL

# Each point: whether the daemon dies in its start or its stop, the system call, and by which options of strace.
# The path filters (-P) hold for injections too, so `when=2` is the second write of a thread to that file.
case ${1:?a point} in
    before-the-ledger) life=start call=rename options=(-P "$draft" --inject=rename:$die) ;;
    before-the-pages) life=start call=write options=(-P "$pages" --inject=write:$die) ;;
    before-the-mount) life=start call=vfork options=(--inject=vfork:$die) ;;
    in-the-mount) life=start call=wait4 options=(--inject=wait4:$die) ;;
    before-the-hold-file) life=start call=fallocate options=(--inject=fallocate:$die) ;;
    between-two-cpus) life=start call=write options=(-P "$CPU/cpu3/online" --inject=write:$die) ;;
    before-the-commit) life=start call=rename options=(-P "$draft" --inject=rename:$die:when=2) ;;
    in-the-undo)
        life=start call=fallocate,write
        options=(-P "$hold" -P "$pages" --inject=fallocate:error=EIO --inject=write:$die:when=2)
        ;;
    in-the-stop-between-two-cpus) life=stop call=write options=(-P "$CPU/cpu3/online" --inject=write:$die) ;;
    in-the-stop-before-the-pages) life=stop call=write options=(-P "$pages" --inject=write:$die) ;;
    in-the-stop-before-the-last-word) life=stop call=unlink options=(-P "$LEDGER" --inject=unlink:$die) ;;
    *) fail "no such point: $1" ;;
esac
recovery=${2:-refused}
before=$(snapshot)
with=$(with_pool "$before" 0-1,4-7 0 16)
good=("memory_mib: 32" "cpu_pool: 2-3")

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
echo "as it left the machine: online $(<$CPU/online), $(counter 0 nr_hugepages) pages"

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
