"""The door to /sys: CPUs, nodes and hugepage counters.

Formats: Documentation/ABI/testing/sysfs-devices-system-cpu, Documentation/admin-guide/mm/hugetlbpage.rst,
Documentation/ABI/stable/sysfs-devices-node.
"""

import os
import re
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Protocol

from ali_enclaves_allocator.kernel.mempolicy import bound
from ali_enclaves_allocator.kernel.systemd import systemd_run
from ali_enclaves_allocator.model import cpus
from ali_enclaves_allocator.model.topology import NO_PAGES, Core, Node, PageCounts, Topology

CPU = "devices/system/cpu"
NODE = "devices/system/node"
NE_CPUS = "module/nitro_enclaves/parameters/ne_cpus"
"""The CPUs that the driver took offline for its enclaves (Documentation/virt/ne_overview.rst)."""

HUGEPAGES = "kernel/mm/hugepages"
"""The counters of a kernel without NUMA (CONFIG_NUMA), which has no `node` directory."""

ISOLATION = ("isolated", "nohz_full")
"""What the administrator set apart (admin-guide/kernel-parameters.txt: isolcpus=, nohz_full=)."""

WRITER = """
import os, sys
path, text = sys.argv[1:]
try:
    os.write(os.open(path, os.O_WRONLY), text.encode())
except OSError as error:
    sys.exit(error.errno)
"""
"""Writes a text to a file in one write(2), and ends with the error number."""

RECLAIMABLE = ("MemFree", "Active(file)", "Inactive(file)", "SReclaimable")
"""Lines of a node's meminfo whose memory hugepages can be made of, given compaction."""


class Files(Protocol):
    """A tree of small text files. Paths are relative to its root."""

    def read(self, path: str) -> str:
        """Return a file's text without its last newline."""

    def write(self, path: str, text: str) -> None:
        """Write the text in one write(2)."""

    def write_as_admin(self, path: str, text: str) -> None:
        """Write where the kernel wants CAP_SYS_ADMIN of the writer."""

    def write_on(self, node: int, path: str, text: str) -> None:
        """Write the text under a memory policy that binds the writer to a node."""

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

    def write_as_admin(self, path: str, text: str) -> None:
        """Let systemd write it: the service does without that capability.

        Raises:
            OSError: the kernel refused, with its error number; or systemd did not answer.
        """
        systemd_run(sys.executable, "-Ic", WRITER, str(self._root / path), text)

    def write_on(self, node: int, path: str, text: str) -> None:
        """Write the text under a memory policy that binds the writer to a node."""
        bound(node, lambda: self.write(path, text))

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

    def present(self) -> frozenset[int]:
        """Return the CPUs that the machine has; one that was unplugged is no longer among them."""
        return frozenset(cpus.parse(self._files.read(f"{CPU}/present")))

    def driver_cpus(self) -> frozenset[int] | None:
        """Return the CPUs that the driver `nitro_enclaves` has; None where it is not loaded."""
        try:
            return frozenset(cpus.parse(self._files.read(NE_CPUS).strip()))
        except FileNotFoundError:
            return None

    def set_driver_cpus(self, wanted: frozenset[int]) -> None:
        """Give the driver exactly these CPUs, or none.

        It gives up all that it has before it looks at what it is asked for (`ne_set_kernel_param`,
        drivers/virt/nitro_enclaves/ne_misc_dev.c), so after EINVAL it has none; to ask for none is EINVAL, too.

        Raises:
            OSError: EPERM while an enclave runs, and nothing was changed; EINVAL; ENOENT without the driver.
        """
        try:
            self._files.write_as_admin(NE_CPUS, cpus.format(wanted) + "\n")
        except OSError:
            if wanted or self.driver_cpus():
                raise

    def nodes(self) -> tuple[int, ...]:
        """Return the ids of the online nodes; they may have holes. Without NUMA it is node 0."""
        return cpus.parse(self._files.read(f"{NODE}/online")) if self._numa else (0,)

    def page_sizes(self, node: int) -> tuple[int, ...]:
        """Return the hugepage sizes of a node in KiB: none where it has no memory (before Linux 6.1), or is gone."""
        try:
            names = self._files.list(self._hugepages(node))
        except FileNotFoundError:
            return ()
        return tuple(sorted(int(name.removeprefix("hugepages-").removesuffix("kB")) for name in names))

    def pages(self, node: int, page_kib: int) -> PageCounts:
        """Return the counters of one page size on one node; of a node that was unplugged, zero."""
        try:
            return self._counts(f"{self._hugepages(node)}/hugepages-{page_kib}kB")
        except FileNotFoundError:
            return NO_PAGES

    def set_pages(self, node: int, page_kib: int, persistent: int) -> None:
        """Ask for a number of persistent pages. The write succeeds even when fewer are granted: read back.

        A node that was unplugged meanwhile grants none, and has none to give back.

        Before Linux 6.7 the node's own file takes surplus pages of other nodes for persistent ones, and makes the node
        have as many too many ("mm/hugetlb: fix nodes huge page allocation when there are surplus pages"). While there
        are any, the number of the whole machine is written instead, which the writer's memory policy makes the node's.
        """
        here, size = self.pages(node, page_kib), f"hugepages-{page_kib}kB"
        with suppress(FileNotFoundError):
            everywhere = self._counts(f"{HUGEPAGES}/{size}")
            if everywhere.surplus > here.surplus:
                text = str(everywhere.persistent - here.persistent + persistent)
                self._files.write_on(node, f"{HUGEPAGES}/{size}/nr_hugepages_mempolicy", text)
            else:
                self._files.write(f"{self._hugepages(node)}/{size}/nr_hugepages", str(persistent))

    def compact(self, node: int) -> None:
        """Compact a node's memory. Kernels without CONFIG_COMPACTION or NUMA have no such file, and cannot."""
        with suppress(FileNotFoundError):
            self._files.write(f"{NODE}/node{node}/compact", "1")

    def topology(
        self, held: Iterable[Core], held_kib: Mapping[int, int], available_kib: int, memory_kib: int
    ) -> Topology:
        """Read the machine, with the pool's cores and memory counted as if they were given back.

        The kernel removes an offline CPU's `topology/`, and its node's `cpulist` no longer names it, so what is
        held comes from the caller, as does the whole machine's memory, which is not below /sys. A core that lost
        a CPU to hot-unplug is a core no more.
        """
        present = self.present()
        held = tuple(core for core in held if present >= set(core.cpus))
        idle = self._idle(present - self.online() - {cpu for core in held for cpu in core.cpus})
        ids = self.nodes()
        if self._numa:
            nodes = tuple(self._node(node, held, held_kib.get(node, 0), idle.get(node, frozenset())) for node in ids)
        else:
            cores, pages = self._cores(0, held), self._pages(0)
            nodes = (Node(0, cores, memory_kib, available_kib, pages, frozenset[int]().union(*idle.values())),)
        every = {cpu for node in nodes for core in node.cores for cpu in core.cpus}
        fixed, isolated = self._fixed(every), self._isolated()
        return Topology(nodes, available_kib, fixed, self._smt(), isolated, self.driver_cpus())

    @cached_property
    def _numa(self) -> bool:
        """Whether the kernel knows nodes at all (CONFIG_NUMA)."""
        try:
            return bool(self._files.list(NODE))
        except FileNotFoundError:
            return False

    def _counts(self, directory: str) -> PageCounts:
        """Return the counters of one page size, of a node or of the whole machine."""
        names = ("nr_hugepages", "free_hugepages", "surplus_hugepages")
        return PageCounts(*(int(self._files.read(f"{directory}/{name}")) for name in names))

    def _hugepages(self, node: int) -> str:
        """Return the directory of a node's hugepage counters."""
        return f"{NODE}/node{node}/hugepages" if self._numa else HUGEPAGES

    def _node(self, node: int, held: tuple[Core, ...], held_kib: int, offline: frozenset[int]) -> Node:
        """Read one node."""
        meminfo = self._meminfo(node)
        return Node(
            id=node,
            cores=self._cores(node, held),
            memory_kib=meminfo["MemTotal"],
            available_kib=sum(meminfo.get(line, 0) for line in RECLAIMABLE) + held_kib,
            pages=self._pages(node),
            offline=offline,
        )

    def _cores(self, node: int, held: tuple[Core, ...]) -> tuple[Core, ...]:
        """Read the cores of a node: what is online of each, and the held ones whole."""
        cores = {core for core in held if core.node == node}
        known = {cpu for core in held for cpu in core.cpus}
        here = f"{NODE}/node{node}/cpulist" if self._numa else f"{CPU}/online"
        for cpu in cpus.parse(self._files.read(here)):
            if cpu not in known:
                with suppress(FileNotFoundError):  # it went offline meanwhile
                    siblings = cpus.parse(self._files.read(f"{CPU}/cpu{cpu}/topology/thread_siblings_list"))
                    cores.add(Core(siblings, node))
        return tuple(sorted(cores))

    def _pages(self, node: int) -> dict[int, PageCounts]:
        """Read the counters of every page size of a node."""
        return {kib: self.pages(node, kib) for kib in self.page_sizes(node)}

    def _idle(self, offline: Iterable[int]) -> dict[int, frozenset[int]]:
        """Return by node the CPUs that others took offline. The link to its node stays with an offline CPU."""
        found: dict[int, frozenset[int]] = {}
        for cpu in offline:
            with suppress(FileNotFoundError):  # it was unplugged meanwhile
                links = (name for name in self._files.list(f"{CPU}/cpu{cpu}") if re.fullmatch("node[0-9]+", name))
                node = int(next(links, "node0").removeprefix("node"))
                found[node] = found.get(node, frozenset()) | {cpu}
        return found

    def _fixed(self, every: Iterable[int]) -> frozenset[int]:
        """Return the CPUs that have no `online` file; one that was unplugged meanwhile has no directory either."""
        found = set()
        for cpu in every:
            with suppress(FileNotFoundError):
                if "online" not in self._files.list(f"{CPU}/cpu{cpu}"):
                    found.add(cpu)
        return frozenset(found)

    def _smt(self) -> bool:
        """Tell whether hyper-threads may be online: "on", or their number per core (powerpc)."""
        try:
            control = self._files.read(f"{CPU}/smt/control")
        except FileNotFoundError:  # before Linux 4.19
            return False
        return control == "on" or (control.isdigit() and int(control) > 1)

    def _isolated(self) -> frozenset[int]:
        """Return what the administrator set apart. Where nohz_full= is not in use, many kernels print "(null)"."""
        found: set[int] = set()
        for name in ISOLATION:
            with suppress(FileNotFoundError, ValueError):
                found.update(cpus.parse(self._files.read(f"{CPU}/{name}")))
        return frozenset(found)

    def _meminfo(self, node: int) -> dict[str, int]:
        """Read a node's meminfo: KiB by name."""
        lines = self._files.read(f"{NODE}/node{node}/meminfo").splitlines()
        parts = (line.split() for line in lines)
        return {words[2].removesuffix(":"): int(words[3]) for words in parts if words}
