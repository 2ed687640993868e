# Sourced after lease_lib.sh by the scripts about enclaves: alice is a plain member of `de`, mallory is not.

useradd --groups de alice
useradd mallory

# Ends with no user that the machine had not before.
forget_users() {
    userdel alice
    userdel mallory
}

as_alice() { su alice --command "$*"; }

# The command of alice's launch, and what mostly is asked for. Usage: launch IMAGE [OPTION…]
launch() { echo "exec enclave-cli run-enclave --accel tcg --cpu-count 2 --memory 192 --eif-path $PWD/$*"; }

# Prints a part of what describe-enclaves tells. Usage: described 0.State
described() { as_alice enclave-cli describe-enclaves | part "$1"; }

# Prints "COUNT CPUS" for each set of CPUs that so many virtual CPUs of a QEMU may use. Usage: vcpus PID
vcpus() {
    local task
    for task in $(grep --files-with-matches '^CPU [0-9]*/' /proc/"$1"/task/*/comm); do
        sed -n 's/^Cpus_allowed_list:\t//p' "${task%comm}status"
    done | sort | uniq --count | xargs
}

is_gone() { [ ! -e "/proc/$1" ]; }
