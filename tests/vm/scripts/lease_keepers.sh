# What somebody may do with the memory of a lease, and what he may keep of it beyond its end.
source ./lib.sh
source ./lease_lib.sh

before=$(snapshot)
chmod 755 .
useradd --no-create-home --groups de member
write_yaml "memory_mib: 48" "cpu_pool: 2-7" "max_enclaves: 2"
start

# Starts a member's keeper and waits until it tells what it got. Usage: keep WAY
keep() {
    rm -f in.keeper kept
    mkfifo in.keeper
    setpriv --reuid member --regid member --init-groups python3 keeper.py "$1" 8 <in.keeper >kept 2>&1 &
    keeper=$!
    exec {pipe}>in.keeper
    expect_within 120 test -s kept
}
let_keeper_go() {
    exec {pipe}>&-
    wait $keeper || true
}

step "a member may open its memory anew, but not make it its own: no file lease, no other mode"
as=(setpriv --reuid member --regid member --init-groups)
take web 2 8 --own
expect_equal '["opened", "EACCES", "EPERM"]' "$(lease own)" "opened anew, file lease, mode"
as=()
end web
expect_whole

step "what a holder makes free of its own is its own affair: another gets a lease"
take web 2 8 --give-up
expect_equal 0 "$(lease has_mib)" "MiB in its file"
take other 2 8
expect_equal other "$(lease name)" "whose lease it is"
expect_equal "ready 2" "$(pool state) $(pool leases)" "state and leases"
end other
end web
expect_whole

step "when a lease has ended, nobody opens its memory anew"
first=$(unit MainPID)
keep place
expect_equal "Permission denied" "$(<kept)" "what opening it says"
take next 2 8
end next
expect_equal "$first ready" "$(unit MainPID) $(pool state)" "process and state"

step "such a place keeps the file system when the service is gone: stop names who has it"
end=$(journal_end)
systemctl stop $UNIT
expect_in "python3[$keeper] has a file of it open still" "$(journal_after "$end")"
expect_equal failed "$(unit ActiveState)" "state"
let_keeper_go
ali-enclaves-allocator give-back
systemctl reset-failed $UNIT
expect_nothing_left
expect_machine "$before" "when it is closed"

step "a page in a pipe, which no file has: it is missed, nothing else is lost, and stop says so"
start
keep pages
degraded() { [ "$(pool state)" = degraded ]; }
expect_within 60 degraded
expect_in "15 pages held" "$(pool drift)"
end=$(journal_end)
systemctl stop $UNIT
expect_in "1 page in use still, after the end of a lease" "$(journal_after "$end")"
let_keeper_go
ali-enclaves-allocator give-back
systemctl reset-failed $UNIT
expect_machine "$before" "when it is closed"

step "pages that are free for a moment, for mappings that no file shows: who gets one gets no second"
start
keep private
echo "he got $(<kept)"
[ "$(<kept)" -le 2 ] || fail "he got $(<kept) pages"
let_keeper_go
expect_whole

stop
restore_yaml
userdel member
expect_machine "$before" "in the end"
