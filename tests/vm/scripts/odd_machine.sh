# A machine as real ones are: of four cores on as many nodes one is the host's, one is plain, one isolated, and one is on
# a node without memory; a fifth node has memory and no CPU. Then threads that others took offline, and no SMT at all.
. ./lib.sh
before=$(snapshot)
expect_equal 4-5 "$(<$CPU/isolated)" "isolated CPUs"
expect_equal 0-4 "$(<$NODE/online)" "nodes"
expect_equal "" "$(<$NODE/node4/cpulist)" "CPUs of node 4"
expect_in "MemTotal:              0 kB" "$(<$NODE/node3/meminfo)"

step "a count takes the plain core: no isolated one, none without memory"
write_yaml "memory_mib: 64" "cpu_count: 2"
start
expect_machine "$(with_pool "$before" 0-1,4-7 1 32)" "with the plain core"
expect_exit 0 ali-enclaves-allocator status
for told in "[0 1 kept]" "[2 3 pool]" "[4 5 host]" "[6 7 host]" "node 3: 0 MiB, 0 MiB available" "node 4: "; do
    expect_in "$told" "$said"
done

step "more than that takes the core without memory too, and says what it is good for"
write_yaml "memory_mib: 64" "cpu_count: 4" "max_enclaves: 2"
end=$(journal_end)
systemctl restart $UNIT
expect_machine "$(with_pool "$before" 0-1,4-5 1 32)" "with two cores"
expect_within 10 journal_has "$end" "CPUs 6-7 of node 3 can run no enclave: no memory of that node is in the pool"

step "isolated CPUs are taken when they are named"
write_yaml "memory_mib: 64" "cpu_pool: 4-5"
systemctl restart $UNIT
expect_machine "$(with_pool "$before" 0-3,6-7 2 32)" "with the isolated core"
stop
expect_machine "$before" "after stop"
expect_equal 4-5 "$(<$CPU/isolated)" "isolated CPUs after stop"

step "what is too much is told node by node, with what would fit"
write_yaml "memory_mib: 1500" "cpu_count: 2"
refuse 69
expect_in "cannot place 2 CPUs and 1500 MiB on one node: node 0: 2 CPUs short (0 available), " "$said"
expect_in "node 2: 2 CPUs short (0 available), " "$said"
expect_in "node 3: 1500 MiB short (0 available); node 4: 2 CPUs short (0 available), " "$said"
expect_in "(what would fit: 2 CPUs with " "$said"
expect_in "CPUs 4-5 stay with the host: isolated on the kernel's command line" "$said"
fits=${said#*what would fit: 2 CPUs with }
write_yaml "memory_mib: $((${fits%% MiB*} - 64))" "cpu_count: 2" # what is available then may be a little less
expect_exit 0 ali-enclaves-allocator check
expect_machine "$before" "after the refusal"

step "a core with a thread that others took offline is not whole, and the thread is never ours to bring up"
echo 0 >$CPU/cpu3/online
torn=$(snapshot)
write_yaml "memory_mib: 64" "cpu_count: 2"
expect_exit 69 ali-enclaves-allocator check
expect_in "CPU 2 stays with the host: a hyper-thread of the core may be one that others took offline (now 3)" "$said"
expect_in "bring them online first: chcpu -e 3" "$said"
write_yaml "memory_mib: 64" "cpu_pool: 2-3"
refuse 78
expect_in "CPU 3: taken offline by others, so not ours to bring up" "$said"
expect_machine "$torn" "after the refusal"
write_yaml "memory_mib: 64" "cpu_pool: 4-5"
start
expect_machine "$(with_pool "$torn" 0-2,6-7 2 32)" "with another core"
stop
expect_machine "$torn" "after stop"
echo 1 >$CPU/cpu3/online

step "without SMT a core is one CPU, and its sibling stays away"
echo off >$CPU/smt/control
single=$(snapshot)
write_yaml "memory_mib: 64" "cpu_count: 1"
start
expect_machine "$(with_pool "$single" 0,4,6 1 32)" "without SMT"
stop
expect_machine "$single" "after stop"
echo on >$CPU/smt/control
expect_machine "$before" "in the end"
restore_yaml
