"""The door to /sys: CPUs, nodes and hugepage counters.

Formats: Documentation/ABI/testing/sysfs-devices-system-cpu, Documentation/admin-guide/mm/hugetlbpage.rst,
Documentation/ABI/stable/sysfs-devices-node.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from ali_enclaves_allocator.model import cpus
from ali_enclaves_allocator.model.topology import Core, Node, PageCounts, Topology

CPU = "devices/system/cpu"
NODE = "devices/system/node"
RECLAIMABLE = ("MemFree", "Active(file)", "Inactive(file)", "SReclaimable")
"""Lines of a node's meminfo whose memory hugepages can be made of, given compaction."""


class Files(Protocol):
    """A tree of small text files. Paths are relative to its root."""

    def read(self, path: str) -> str:
        """Return a file's text without its last newline."""

    def write(self, path: str, text: str) -> None:
        """Write the text in one write(2)."""

    def list(self, path: str) -> list[str]:
        """Return the names in a directory."""


class LinuxFiles:
    """The real tree below /sys."""

    def __init__(self, root: Path = Path("/sys")) -> None:
        self._root = root

    def read(self, path: str) -> str:
        """Return a file's text without its last newline."""
        return (self._root / path).read_text().removesuffix("\n")

    def write(self, path: str, text: str) -> None:
        """Write the text in one write(2), the only way a kernel attribute takes it."""
        target = os.open(self._root / path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(target, text.encode())
        finally:
            os.close(target)

    def list(self, path: str) -> list[str]:
        """Return the names in a directory."""
        return os.listdir(self._root / path)


class Sysfs:
    """CPUs, nodes and pages in the kernel's own words."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def online(self) -> frozenset[int]:
        """Return the CPUs that are online."""
        return frozenset(cpus.parse(self._files.read(f"{CPU}/online")))

    def set_online(self, cpu: int, online: bool) -> None:
        """Take a CPU offline or bring it online; to set what is already so is no error.

        Raises:
            OSError: the kernel refused: EBUSY, EPERM; ENOENT when the CPU is gone.
        """
        self._files.write(f"{CPU}/cpu{cpu}/online", "1" if online else "0")

    def nodes(self) -> tuple[int, ...]:
        """Return the ids of the online nodes; they may have holes."""
        return cpus.parse(self._files.read(f"{NODE}/online"))

    def page_sizes(self, node: int) -> tuple[int, ...]:
        """Return the hugepage sizes of a node in KiB."""
        names = self._files.list(f"{NODE}/node{node}/hugepages")
        return tuple(sorted(int(name.removeprefix("hugepages-").removesuffix("kB")) for name in names))

    def pages(self, node: int, page_kib: int) -> PageCounts:
        """Return the counters of one page size on one node."""
        base = f"{NODE}/node{node}/hugepages/hugepages-{page_kib}kB"
        total, free, surplus = (
            int(self._files.read(f"{base}/{name}")) for name in ("nr_hugepages", "free_hugepages", "surplus_hugepages")
        )
        return PageCounts(total, free, surplus)

    def set_pages(self, node: int, page_kib: int, persistent: int) -> None:
        """Ask for a number of persistent pages. The write succeeds even when fewer are granted: read back."""
        self._files.write(f"{NODE}/node{node}/hugepages/hugepages-{page_kib}kB/nr_hugepages", str(persistent))

    def compact(self, node: int) -> None:
        """Compact a node's memory. Kernels without CONFIG_COMPACTION have no such file, and cannot."""
        try:
            self._files.write(f"{NODE}/node{node}/compact", "1")
        except FileNotFoundError:
            return

    def topology(self, held: Iterable[Core], held_kib: Mapping[int, int], available_kib: int) -> Topology:
        """Read the machine, with the pool's cores and memory counted as if they were given back.

        The kernel removes an offline CPU's `topology/`, and its node's `cpulist` no longer names it, so what is
        held comes from the caller.
        """
        held = tuple(held)
        nodes = tuple(self._node(node, held, held_kib.get(node, 0)) for node in self.nodes())
        every = {cpu for node in nodes for core in node.cores for cpu in core.cpus}
        fixed = frozenset(cpu for cpu in every if "online" not in self._files.list(f"{CPU}/cpu{cpu}"))
        return Topology(nodes, available_kib, fixed)

    def _node(self, node: int, held: tuple[Core, ...], held_kib: int) -> Node:
        """Read one node."""
        cores = {core for core in held if core.node == node}
        known = {cpu for core in held for cpu in core.cpus}
        for cpu in cpus.parse(self._files.read(f"{NODE}/node{node}/cpulist")):
            if cpu not in known:
                with suppress(FileNotFoundError):  # it went offline meanwhile
                    siblings = cpus.parse(self._files.read(f"{CPU}/cpu{cpu}/topology/thread_siblings_list"))
                    cores.add(Core(siblings, node))
        meminfo = self._meminfo(node)
        return Node(
            id=node,
            cores=tuple(sorted(cores)),
            memory_kib=meminfo["MemTotal"],
            available_kib=sum(meminfo.get(line, 0) for line in RECLAIMABLE) + held_kib,
            pages={kib: self.pages(node, kib) for kib in self.page_sizes(node)},
        )

    def _meminfo(self, node: int) -> dict[str, int]:
        """Read a node's meminfo: KiB by name."""
        lines = self._files.read(f"{NODE}/node{node}/meminfo").splitlines()
        parts = (line.split() for line in lines)
        return {words[2].removesuffix(":"): int(words[3]) for words in parts if words}
