# The first CPU of the pool goes offline and the second is refused, half-way: all is undone, and the tasks are named.
# So strace holds the daemon between the two, until the kernel is done with the first and the tasks are there.
. ./lib.sh
. ./deadline_lib.sh
before=$(snapshot)

step "the first CPU is offline"
mkfifo wanted.yaml
ali-enclaves-allocator serve wanted.yaml >log 2>&1 &
daemon=$!
expect_within 60 [ -S /run/ali-enclaves/allocator.sock ]
strace --follow-forks --attach $daemon --output trace --trace write -P $CPU/cpu3/online \
    --inject=write:delay_enter=10s:when=1 2>attached &
expect_within 60 grep -q attached attached
printf '%s\n' "memory_mib: 64" "cpu_pool: 2-3" >wanted.yaml
expect_within 60 grep -qx 0-1,3-7 $CPU/online
sleep 1

step "7 tasks reserve 87 % of a CPU each and sleep: 7 CPUs can carry that, 6 cannot"
reserve 7 8
expect_equal 0-1,3-7 "$(<$CPU/online)" "online CPUs when the tasks are there"

step "the second CPU is refused"
status=0
wait $daemon || status=$?
said=$(<log)
echo "$said"
expect_equal 69 $status "exit status"
expect_refused 3 "$said"
expect_machine "$before" "after the refusal"
expect_nothing_left
unreserve
