"""The door to /proc: memory available to programs, and the tasks that a CPU taken offline concerns."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import psutil

from ali_enclaves_allocator.model.pool import Holder

SCHED_DEADLINE = 6
"""The policy that reserves CPU time and makes the kernel refuse an offline (sched(7))."""


def printable(comm: str) -> str:
    """Return a name as it may be shown: a process chooses its own, and may put a line break into it."""
    return "".join(char if char.isprintable() else "?" for char in comm)


def started_after(holder: Holder, ns: int) -> bool:
    """Tell whether a process started later than `ns` after boot (CLOCK_BOOTTIME), as far as clock ticks tell."""
    return holder.started > ns * os.sysconf("SC_CLK_TCK") // 1_000_000_000


@dataclass(frozen=True)
class Task:
    """A thread: the kernel schedules threads, and each has an affinity of its own."""

    tid: int
    comm: str

    def __str__(self) -> str:
        return f"{printable(self.comm)}[{self.tid}]"


class Processes(Protocol):
    """What the allocator asks of /proc."""

    def available_kib(self) -> int:
        """Return the memory programs could still get without swapping (`MemAvailable`)."""

    def memory_kib(self) -> int:
        """Return all of the machine's memory (`MemTotal`)."""

    def confined_to(self, cpus: frozenset[int]) -> Mapping[Task, frozenset[int]]:
        """Return the user tasks that may run on these CPUs only, with those that each may run on."""

    def deadline_tasks(self, cpu: int) -> list[Task]:
        """Return the SCHED_DEADLINE tasks that may run on a CPU."""

    def holder(self, pid: int, uid: int, gid: int) -> Holder | None:
        """Describe a process that a lease will belong to; None when it has ended; raises OSError."""

    def alive(self, holder: Holder) -> bool:
        """Tell whether that very process still runs; raises OSError where that cannot be told."""


class LinuxProcesses:
    """The real one, through psutil."""

    def available_kib(self) -> int:
        """Return the memory programs could still get without swapping (`MemAvailable`)."""
        return int(psutil.virtual_memory().available) // 1024

    def memory_kib(self) -> int:
        """Return all of the machine's memory (`MemTotal`)."""
        return int(psutil.virtual_memory().total) // 1024

    def confined_to(self, cpus: frozenset[int]) -> Mapping[Task, frozenset[int]]:
        """Return the user tasks that may run on these CPUs only, threads included, with those that each may run on."""
        return {task: its for task in _tasks() if frozenset() < (its := _affinity(task)) <= cpus}

    def deadline_tasks(self, cpu: int) -> list[Task]:
        """Return the SCHED_DEADLINE tasks that may run on a CPU."""
        return [task for task in _tasks() if _policy(task) == SCHED_DEADLINE and cpu in _affinity(task)]

    def holder(self, pid: int, uid: int, gid: int) -> Holder | None:
        """Describe a process that a lease will belong to; None when it has ended."""
        started = _started(pid)
        return Holder(pid, started, uid, gid, printable(_comm(pid))) if started else None

    def alive(self, holder: Holder) -> bool:
        """Tell whether that very process still runs; one that is dead but not yet waited for does not."""
        return _started(holder.pid) == holder.started


def _started(pid: int) -> int:
    """Return when a process started, in clock ticks from boot; 0 when it is dead or a zombie (proc(5)).

    Raises:
        OSError: it cannot be told, as when we have too many descriptors.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            fields = stat.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def _tasks() -> Iterator[Task]:
    """Return every thread of every user process; kernel threads (children of kthreadd, 2) look after themselves."""
    for process in psutil.process_iter():
        try:
            if process.pid == 2 or process.ppid() == 2:
                continue
            for thread in process.threads():
                yield Task(thread.id, _comm(thread.id) or process.name())
        except psutil.Error:
            continue


def _comm(tid: int) -> str:
    """Return a thread's own name, which may differ from its process's."""
    try:
        with open(f"/proc/{tid}/comm", encoding="utf-8", errors="replace") as comm:
            return comm.read().removesuffix("\n")
    except OSError:
        return ""


def _affinity(task: Task) -> frozenset[int]:
    """Return the CPUs a task may run on; empty when it has ended."""
    try:
        return frozenset(os.sched_getaffinity(task.tid))
    except OSError:
        return frozenset()


def _policy(task: Task) -> int:
    """Return a task's scheduling policy; -1 when it has ended."""
    try:
        return os.sched_getscheduler(task.tid)
    except OSError:
        return -1
