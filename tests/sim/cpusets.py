"""Simulated cpusets of cgroup v1: what the kernel takes from them it never gives back by itself."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from ali_enclaves_allocator.model.pool import Cpuset

if TYPE_CHECKING:
    from tests.sim.kernel import Simulation


class SimCpusets:
    """The hierarchy, by the rules of `validate_change_legacy` (kernel/cgroup/cpuset.c)."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def having(self, lost: frozenset[int]) -> tuple[Cpuset, ...]:
        """Return the cpusets that have some of these CPUs, each with those."""
        having = ((path, lost & its) for path, its in sorted(self._simulation.cpusets.items()))
        return tuple(Cpuset(path, tuple(sorted(its))) for path, its in having if its)

    def give_back(self, cpuset: Cpuset) -> None:
        """Add CPUs to a cpuset; it may have what is online and its parent has."""
        simulation = self._simulation
        wanted = simulation.cpusets.get(cpuset.path, frozenset()) | set(cpuset.cpus)
        if cpuset.path not in simulation.cpusets or wanted == simulation.cpusets[cpuset.path]:
            return
        with simulation.effects.effect(f"give back to {cpuset.path}"):
            parent = os.path.dirname(cpuset.path)
            if not wanted <= simulation.online:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            if parent and not wanted <= simulation.cpusets[parent]:
                raise OSError(errno.EACCES, os.strerror(errno.EACCES))
            simulation.cpusets[cpuset.path] = wanted
