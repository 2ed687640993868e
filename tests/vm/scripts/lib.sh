# Sourced by the scripts of the ring. To run one by hand: tests/vm/ring NAME.sh [ARG…]
#
# /sys is the oracle. A script ends at the first thing that is not as it must be, and says which; what it set up
# for itself it also puts back, and state.sh tells if it does not. Only after a failure may it leave anything: the
# guest ends with it.
set -Eeuo pipefail
shopt -s inherit_errexit extglob

UNIT=ali-enclaves-allocator.service
YAML=/etc/ali-enclaves/allocator.yaml
SHIPPED=$PWD/shipped.yaml
LEDGER=/run/ali-enclaves/ledger.json
CPU=/sys/devices/system/cpu
NODE=/sys/devices/system/node

cp -a $YAML "$SHIPPED"
beginning=$(journalctl --lines 0 --show-cursor --quiet | sed -n 's/^-- cursor: //p')
trap 'echo "FAILED: ${BASH_SOURCE[0]##*/}:$LINENO: exit status $? of: $BASH_COMMAND" >&2' ERR
trap 'at_exit $?' EXIT

# After a failure, prints what the daemon said and all that the journal has of the time of the script.
at_exit() {
    [ "$1" != 0 ] || return 0
    [ ! -e log ] || sed 's/^/log: /' log
    journalctl --quiet --no-pager --after-cursor "$beginning" --output short-monotonic
    exit "$1"
}

# Ends the script, and says which of its lines did.
fail() {
    echo "FAILED: ${BASH_SOURCE[-1]##*/}:${BASH_LINENO[-2]}: $*" >&2
    exit 1
}

# Says what comes next, and when it came.
step() { printf -- '--- %s  %s\n' "$(cut -d' ' -f1 /proc/uptime)" "$*"; }

# Prints the online CPUs and every hugepage counter of the machine, one per line.
snapshot() {
    echo "online $(<$CPU/online)"
    grep -H . $NODE/node*/hugepages/*/*_hugepages /sys/kernel/mm/hugepages/*/*_hugepages*
}

# Prints the snapshot SNAPSHOT as it must be with a pool. Usage: with_pool SNAPSHOT ONLINE NODE PAGES [KIB]
with_pool() {
    awk -F: -v OFS=: -v online="$2" -v pages="$4" -v of="hugepages-${5:-2048}kB/nr_hugepages" -v node="/node$3/" '
        /^online / { $0 = "online " online }
        index($1, of) && ($1 ~ node || $1 ~ "/kernel/mm/") { $2 += pages }
        { print }' <<<"$1"
}

# Fails with the differences between two texts. Usage: expect_same BEFORE AFTER WHAT
expect_same() { diff <(echo "$1") <(echo "$2") || fail "$3: not the same (< wanted, > got)"; }

# Fails unless the machine is as in a snapshot. Usage: expect_machine SNAPSHOT WHEN
expect_machine() { expect_same "$1" "$(snapshot)" "the machine $2"; }

# Usage: expect_equal WANTED GOT WHAT
expect_equal() { [ "$1" = "$2" ] || fail "$3: got '$2', wanted '$1'"; }

# Fails unless a text contains a part. Usage: expect_in PART TEXT
expect_in() { [[ $2 == *"$1"* ]] || fail "'$1' is not in: $2"; }

# Runs a command, which must end with that status, and leaves what it printed in $said.
expect_exit() {
    local wanted=$1 got=0
    shift
    said=$("$@" 2>&1) || got=$?
    [ "$got" = "$wanted" ] || fail "exit status $got, wanted $wanted: $*: $said"
}

# Usage: expect_within SECONDS COMMAND…; tries the command until it succeeds. A machine with much else to do is given
# four times as long: only what fails waits for all of it.
expect_within() {
    local deadline=$((SECONDS + 4 * $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $deadline ] || fail "not in time: $*"
        sleep 0.1
    done
}

# Writes allocator.yaml from its arguments, one line each. Who does so also restores it.
write_yaml() { printf '%s\n' "$@" >$YAML; }
restore_yaml() { cp -a "$SHIPPED" $YAML; }

unit() { systemctl show --property "$1" --value $UNIT; }
sentence() { unit StatusText; }

# Prints where the journal of the service ends now. With the same filter as below, or journalctl 252 leaves the first
# record out: it takes what it finds at the cursor for that of the cursor, which the filter may hide.
journal_end() {
    { journalctl --unit $UNIT --lines 1 --show-cursor --quiet || true; } | sed -n 's|^-- cursor: ||p'
}

# Prints what the service wrote to the journal after such a place; all of it, if there was none then.
journal_after() { journalctl --unit $UNIT ${1:+--after-cursor "$1"} --output cat --no-pager --quiet; }

# Tells whether a text is in what the service wrote to the journal after such a place; the last of it may come late.
journal_has() { journal_after "$1" | grep -qF -- "$2"; }

# Prints what GetPool answers, or a part of it: pool nodes.0.hugepages.0.free
pool() { python3 varlink.py pool "$@"; }

# Prints a part of the JSON on standard input. Usage: part PATH
part() { python3 varlink.py part "$@"; }

start() { systemctl start $UNIT; }

# Starts the service, which must refuse with that exit status; leaves what it wrote to the journal in $said.
refuse() {
    local end
    end=$(journal_end)
    ! systemctl start $UNIT 2>/dev/null || fail "started: $(sentence)"
    expect_equal "$1" "$(unit ExecMainStatus)" "exit status of the service"
    expect_equal failed "$(unit ActiveState)" "state of the service"
    systemctl reset-failed $UNIT
    said=$(journal_after "$end")
}

# Stops the service; nothing of it may be left but its lock.
stop() {
    systemctl stop $UNIT
    expect_equal inactive "$(unit ActiveState)" "state of the stopped service"
    expect_nothing_left
}

# Fails if anything of a daemon is left in its directory; the lock and the directory of EVMs always are there.
expect_nothing_left() {
    expect_equal "" "$(find /run/ali-enclaves -mindepth 1 ! -path '*/lock' ! -path '*/evm')" "left in /run/ali-enclaves"
}

# Usage: counter NODE NAME [KIB]; for example: counter 0 nr_hugepages
counter() { cat "$NODE/node$1/hugepages/hugepages-${3:-2048}kB/$2"; }

# Makes a node have so many persistent pages: other programs' pages. Usage: set_pages NODE COUNT [KIB]
set_pages() {
    local file=$NODE/node$1/hugepages/hugepages-${3:-2048}kB/nr_hugepages
    echo "$2" >"$file"
    [ "$(<"$file")" = "$2" ] || echo "$2" >"$file"
    expect_equal "$2" "$(<"$file")" "pages granted on node $1"
}

# Starts a program that holds pages of a node until `let_go`. Usage: hold NODE COUNT [KIB]
holders=()
hold() {
    local said=held.${#holders[@]}
    python3 hugepages.py hold "$@" >"$said" &
    holders+=($!)
    expect_within 120 grep -qx held "$said"
}
let_go() {
    kill "${holders[@]}"
    wait "${holders[@]}" 2>/dev/null || true
    holders=()
}

# Prints how many pages a program gets that takes all it can. Usage: steal [NODE]
steal() { python3 hugepages.py steal "$@"; }

# Prints the CPUs of a list such as 2-3,6, one per line, as sort and comm have them.
cpus_of() {
    local range
    for range in ${1//,/ }; do seq "${range%-*}" "${range#*-}"; done | sort
}
