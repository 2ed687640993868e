"""The door to the cpusets of cgroup v1, which other programs make: container engines, tools that pin.

There a CPU that goes offline is taken out of every `cpuset.cpus` for good, and the tasks of a cpuset that has none left
move to its parent (admin-guide/cgroup-v1/cpusets.rst, "What is exclusive"; `hotplug_update_tasks_legacy`). On cgroup v2
a cpuset keeps what was written to it, so nothing is to be done there.
"""

import os
from pathlib import Path

from ali_enclaves_allocator.model import cpus
from ali_enclaves_allocator.model.pool import Cpuset

CPUS = "cpuset.cpus"


class LinuxCpusets:
    """The real hierarchy, wherever it is mounted."""

    def __init__(self, mounts: Path = Path("/proc/self/mounts")) -> None:
        self._mounts = mounts

    def having(self, lost: frozenset[int]) -> tuple[Cpuset, ...]:
        """Return the cpusets below the root that have some of these CPUs, parents first, each with those."""
        root = self._root()
        below = (directory for directory, _, _ in os.walk(root) if directory != root)
        having = ((directory, lost & _read(Path(directory, CPUS))) for directory in below)
        return tuple(sorted(Cpuset(os.path.relpath(where, root), tuple(sorted(its))) for where, its in having if its))

    def give_back(self, cpuset: Cpuset) -> None:
        """Add CPUs to a cpuset that has lost them; one that was removed meanwhile needs none.

        Raises:
            OSError: the kernel refused, as where the parent has not got them (EACCES).
        """
        file = Path(self._root(), cpuset.path, CPUS)
        wanted = _read(file) | set(cpuset.cpus)
        if file.exists() and wanted != _read(file):
            file.write_text(cpus.format(wanted))

    def _root(self) -> str:
        """Return where the hierarchy is mounted; a path that is not there, where it is not."""
        for line in self._mounts.read_text().splitlines():
            _, where, kind, options, *_ = line.split()
            if kind == "cgroup" and "cpuset" in options.split(","):
                return where
        return os.devnull


def _read(file: Path) -> frozenset[int]:
    """Return the CPUs of a cpuset; none where it was removed meanwhile."""
    try:
        return frozenset(cpus.parse(file.read_text()))
    except OSError:
        return frozenset()
