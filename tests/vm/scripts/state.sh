# Prints all that a script must leave as it found it; the ring compares it before and after each one.
# What cannot be read fails it: nothing passes for unchanged because nobody could look.
set -euo pipefail

grep -H . /sys/devices/system/cpu/online /sys/devices/system/node/node*/hugepages/*/*_hugepages \
    /sys/kernel/mm/hugepages/*/*_hugepages*
awk '$3 == "hugetlbfs"' /proc/self/mounts

# systemd makes these directories when it first needs them; the lock stays where it once was taken, and so does the mount
# for the directories of enclaves, whose end must leave it empty.
for directory in /run/ali-enclaves /run/systemd/{system,system.control,transient}; do
    [ ! -e $directory ] || find $directory -mindepth 1 ! -path /run/ali-enclaves/lock ! -path /run/ali-enclaves/evm | sort
done
sha256sum /etc/ali-enclaves/allocator.yaml
systemctl show --property ActiveState,UnitFileState,DropInPaths,NFileDescriptorStore,StatusText \
    ali-enclaves-allocator.service
systemctl list-units --plain --no-legend 'evm-*' enclaves.slice
systemctl list-units --plain --no-legend --failed

# grep says 1 where it finds nothing, which is as it should be. `journalctl --grep` says 1 for any failure too.
journalctl --quiet --boot --output short-monotonic |
    { grep -E -B 3 -A 20 'Traceback|Task exception|never retrieved|never awaited' || [ $? = 1 ]; }
