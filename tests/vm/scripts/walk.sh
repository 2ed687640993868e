# A random walk: operators, enclaves, other programs, kills, in any order, while the host is busy; after each step /sys
# and /proc are asked whether it was as it must be, and in the end the machine is what it was at the beginning.
# Usage: walk.sh [STEPS [SEED]]; the same seed makes the same choices.
source ./lib.sh
source ./lease_lib.sh

steps=${1:-500}
seed=${2:-$RANDOM}
found=$(snapshot)
left=$(bash state.sh)
allowed=$(affinities)
spin 0.2

step "$steps steps, seed $seed: again by walk.sh $steps $seed"
python3 walk.py "$steps" "$seed" || {
    beginning=$(journalctl --quiet --lines 300 --output export | sed -n '0,/^__CURSOR=/s///p')
    fail "seed $seed: the walk found what is told above"
}

step "everything is given back exactly"
echo "the host ran on CPUs $(spun)"
restore_yaml
expect_nothing_left
expect_machine "$found" "in the end"
expect_same "$left" "$(bash state.sh)" "all that scripts must leave as it was, seed $seed"
expect_same "$allowed" "$(affinities)" "CPUs that the host's tasks may run on, seed $seed"
