# Prints all that a script must leave as it found it; the ring compares it before and after each one.
grep -H . /sys/devices/system/cpu/online /sys/devices/system/node/node*/hugepages/*/*_hugepages \
    /sys/kernel/mm/hugepages/*/*_hugepages*
findmnt --raw --noheadings --types hugetlbfs --output TARGET,OPTIONS
find /run/ali-enclaves /run/systemd/system /run/systemd/system.control /run/systemd/transient -mindepth 1 \
    ! -name lock 2>/dev/null
sha256sum /etc/ali-enclaves/allocator.yaml
systemctl show --property ActiveState,UnitFileState,DropInPaths,NFileDescriptorStore,StatusText \
    ali-enclaves-allocator.service
systemctl list-units --failed --plain --no-legend
journalctl --quiet --boot --grep 'Traceback|Task exception|never retrieved|never awaited' --output short-monotonic
true
