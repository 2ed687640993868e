"""The doors of a real machine, put together."""

from pathlib import Path

from ali_enclaves_allocator.kernel.cgroup1 import LinuxCpusets
from ali_enclaves_allocator.kernel.cpuset import LinuxScopes
from ali_enclaves_allocator.kernel.doors import Kernel
from ali_enclaves_allocator.kernel.hugetlbfs import LinuxBanks
from ali_enclaves_allocator.kernel.processes import LinuxProcesses
from ali_enclaves_allocator.kernel.sysfs import LinuxFiles, Sysfs


def linux_kernel(directory: Path) -> Kernel:
    """Return the real doors, with banks below the run directory."""
    return Kernel(Sysfs(LinuxFiles()), LinuxBanks(directory / "banks"), LinuxProcesses(), LinuxScopes(), LinuxCpusets())


def boot_id() -> str:
    """Return the id of this boot (random(4)): what an earlier boot's ledger describes is gone."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
