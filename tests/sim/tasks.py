"""Simulated tasks and cgroups: who may run where, who holds a lease, and the partition that keeps the host away."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ali_enclaves_allocator.kernel.processes import Task
from ali_enclaves_allocator.model import cpus as cpu_lists
from ali_enclaves_allocator.model.pool import Holder, Lease
from ali_enclaves_allocator.model.refusals import OnlineImpossible

if TYPE_CHECKING:
    from tests.sim.kernel import Simulation


@dataclass(frozen=True)
class SimTask:
    """A thread of some program."""

    task: Task
    affinity: frozenset[int]
    deadline: bool = False


@dataclass
class SimProcess:
    """A process that can hold a lease."""

    started: int
    uid: int
    comm: str
    alive: bool = True


@dataclass
class Scope:
    """The cgroup of a lease."""

    pids: set[int]
    cpus: frozenset[int]


@dataclass(frozen=True)
class Partition:
    """The slice: its CPUs, and whether they are a valid partition. The empty one is the slice that is stopped."""

    cpus: frozenset[int] = field(default_factory=frozenset)
    valid: bool = False

    def beside(self, siblings: Mapping[str, frozenset[int]]) -> Partition:
        """Return what the kernel makes of it: an overlap with another cgroup's CPUs breaks it."""
        return replace(self, valid=self.valid and not any(self.cpus & claim for claim in siblings.values()))


class SimProcesses:
    """What /proc tells."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def available_kib(self) -> int:
        """Return the memory programs could still get without swapping."""
        return sum(memory.free_kib + memory.cache_kib for memory in self._simulation.memory.values())

    def memory_kib(self) -> int:
        """Return all of the machine's memory."""
        return sum(memory.total_kib for memory in self._simulation.memory.values())

    def confined_to(self, cpus: frozenset[int]) -> Mapping[Task, frozenset[int]]:
        """Return the tasks that may run on these CPUs only, with those that each may run on."""
        return {entry.task: entry.affinity for entry in self._simulation.tasks if entry.affinity <= cpus}

    def deadline_tasks(self, cpu: int) -> list[Task]:
        """Return the SCHED_DEADLINE tasks that may run on a CPU."""
        return [entry.task for entry in self._simulation.tasks if entry.deadline and cpu in entry.affinity]

    def holder(self, pid: int, uid: int, gid: int) -> Holder | None:
        """Describe a process that a lease will belong to; None when it has ended."""
        process = self._simulation.processes.get(pid)
        return Holder(pid, process.started, uid, gid, process.comm) if process and process.alive else None

    def alive(self, holder: Holder) -> bool:
        """Tell whether that very process still runs."""
        process = self._simulation.processes.get(holder.pid)
        return process is not None and process.alive and process.started == holder.started


class SimScopes:
    """The cgroups of leases. A CPU that comes online inside the valid partition is no host's; any other is."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def confine(self, cpus: frozenset[int]) -> None:
        """Give the slice exactly these CPUs, as a partition; with none, open it."""
        simulation = self._simulation
        if not cpus:
            if simulation.partition.valid:
                with simulation.effects.effect("open the partition"):
                    simulation.partition = replace(simulation.partition, valid=False)
            return
        claims = [name for name, claim in sorted(simulation.siblings.items()) if claim & (cpus - self.cpus())]
        if claims:
            raise OnlineImpossible(f"{', '.join(claims)} claims some of {cpu_lists.named(cpus)} (AllowedCPUs=)")
        with simulation.effects.effect(f"confine {cpu_lists.format(cpus)}"):
            came_in_online = (cpus - simulation.partition.cpus) & simulation.online
            assert not came_in_online, "a CPU must be offline when it enters the partition"
            simulation.partition = Partition(cpus, valid=True).beside(simulation.siblings)
        if not simulation.partition.valid:
            raise OnlineImpossible(f"the partition of {cpu_lists.named(cpus)} is root invalid")

    def cpus(self) -> frozenset[int]:
        """Return the CPUs of the slice."""
        return self._simulation.partition.cpus

    def dissolve(self) -> None:
        """Stop the slice. What of its CPUs is offline then, no host task runs on ever again, unless it is unplugged."""
        simulation = self._simulation
        if simulation.partition != Partition():
            with simulation.effects.effect("dissolve the slice"):
                simulation.lost |= simulation.partition.cpus & simulation.present - simulation.online
                simulation.partition = Partition()

    def has_slice(self) -> bool:
        """Tell whether the slice is there."""
        return self._simulation.partition != Partition()

    def start(self, lease: Lease) -> None:
        """Move the holder into the lease's scope."""
        simulation = self._simulation
        with simulation.effects.effect(f"start {_scope(lease)}"):
            if _scope(lease) in simulation.scopes:
                raise OSError(errno.EIO, f"systemd: Unit {_scope(lease)} was already loaded")
            if not simulation.kernel.processes.alive(lease.holder):
                raise OSError(errno.EIO, f"the holder did not arrive in {_scope(lease)}")
            for name, scope in list(simulation.scopes.items()):
                scope.pids.discard(lease.holder.pid)
                if not scope.pids:
                    del simulation.scopes[name]
            simulation.scopes[_scope(lease)] = Scope({lease.holder.pid}, lease.cpus if lease.online else frozenset())

    def stop(self, lease: Lease) -> None:
        """Kill every task of the lease's scope; without a scope nothing happens."""
        simulation = self._simulation
        if _scope(lease) in simulation.scopes:
            with simulation.effects.effect(f"stop {_scope(lease)}"):
                for pid in list(simulation.scopes[_scope(lease)].pids):
                    simulation.kill(pid)

    def stands(self, lease: Lease) -> bool:
        """Tell whether the lease's scope exists."""
        return _scope(lease) in self._simulation.scopes

    def give_back_after(self, lease: Lease) -> None:
        """Note that the scope's end is waited for."""
        if _scope(lease) not in self._simulation.awaited:
            with self._simulation.effects.effect(f"wait for {_scope(lease)}"):
                self._simulation.awaited.add(_scope(lease))

    def confined(self) -> frozenset[int]:
        """Return the CPUs that no host task can enter now."""
        return self._simulation.confined()


def _scope(lease: Lease) -> str:
    return f"evm-{lease.id}.scope"


__all__ = ["Partition", "Scope", "SimProcess", "SimProcesses", "SimScopes", "SimTask", "Task"]
