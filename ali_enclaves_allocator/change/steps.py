"""Steps: one kernel setting each, as a value that says what we want of it and how to give it back.

Every step can be carried out twice with the same result, so after a crash it is enough to know which steps were
intended. What depends on a counter that others move too is decided once (`decided`), recorded, then written.
"""

import errno
import logging
from dataclasses import dataclass, replace
from typing import Literal

from ali_enclaves_allocator.kernel.doors import Kernel
from ali_enclaves_allocator.model.cpus import named
from ali_enclaves_allocator.model.errors import (
    CpuRefused,
    DriverRefused,
    KernelRefused,
    PagesTaken,
    ShortGrant,
    page_size,
)
from ali_enclaves_allocator.model.events import CPUSET_CUT
from ali_enclaves_allocator.model.pool import Bank, Cpuset, cpusets_with

log = logging.getLogger(__name__)

COMPACTIONS = 3
"""How often a node is compacted and asked again after a short grant."""


@dataclass(frozen=True)
class SetCpu:
    """Take a CPU offline, or bring it back online."""

    cpu: int
    online: bool
    kind: Literal["cpu"] = "cpu"

    def describe(self) -> str:
        """Say what the step does."""
        return f"take CPU {self.cpu} {'online' if self.online else 'offline'}"

    def apply(self, kernel: Kernel) -> None:
        """Write `cpuN/online`. A CPU that was unplugged meanwhile need not come back.

        Nor is one brought up that the driver `nitro_enclaves` has, and perhaps an enclave: the driver does that
        itself when it gives the CPU up.

        Raises:
            CpuRefused: the kernel refused, as it does with EBUSY when the deadline tasks would no longer fit.
        """
        if self.online and self.cpu in (kernel.sysfs.driver_cpus() or ()):
            return
        try:
            kernel.sysfs.set_online(self.cpu, self.online)
        except OSError as error:
            if self.online and isinstance(error, FileNotFoundError):
                return
            tasks = [] if self.online else [str(task) for task in kernel.processes.deadline_tasks(self.cpu)]
            raise CpuRefused(self.cpu, self.online, error.strerror or str(error), tasks) from error

    def inverse(self, _: Kernel) -> "SetCpu":
        """Return the step that takes this one back."""
        return replace(self, online=not self.online)


@dataclass(frozen=True)
class SetDriverCpus:
    """Give the driver `nitro_enclaves` these CPUs instead of those it has. It takes them offline, and those back."""

    cpus: tuple[int, ...]
    former: tuple[int, ...]
    kind: Literal["driver"] = "driver"

    def describe(self) -> str:
        """Say what the step does."""
        return f"give the nitro_enclaves driver {named(self.cpus)} instead of {named(self.former)}"

    def apply(self, kernel: Kernel) -> None:
        """Write its parameter `ne_cpus`, unless all is as it should be.

        Raises:
            DriverRefused: it refused; after another reason than a running enclave it has no CPUs.
        """
        wanted = frozenset(self.cpus)
        if (kernel.sysfs.driver_cpus() or frozenset()) == wanted and not wanted & kernel.sysfs.online():
            return
        try:
            kernel.sysfs.set_driver_cpus(wanted)
        except OSError as error:
            busy = error.errno == errno.EPERM
            reason = error.strerror or str(error)
            raise DriverRefused(list(self.cpus), list(self.former), reason, busy) from error

    def inverse(self, _: Kernel) -> "SetDriverCpus":
        """Return the step that takes this one back."""
        return replace(self, cpus=self.former, former=self.cpus)


@dataclass(frozen=True)
class SetBank:
    """Mount a bank and fill it from the node's free pages, or drop it, which frees its pages."""

    bank: Bank
    present: bool
    kind: Literal["bank"] = "bank"

    def describe(self) -> str:
        """Say what the step does."""
        pages = f"{self.bank.pages}×{page_size(self.bank.page_kib)} on node {self.bank.node}"
        return f"{'hold' if self.present else 'drop'} {pages} in {self.bank.name}"

    def apply(self, kernel: Kernel) -> None:
        """Mount and fill, or unmount.

        Raises:
            PagesTaken: the node had too few free pages left.
            KernelRefused: the mount or the unmount failed.
        """
        try:
            if not self.present:
                kernel.banks.unmount(self.bank)
                return
            missing = self.bank.pages - kernel.banks.held({}).get(self.bank.name, 0)
            free = kernel.sysfs.pages(self.bank.node, self.bank.page_kib).free
            if free < missing:
                raise PagesTaken(self.bank.node, self.bank.page_kib, free, missing)
            kernel.banks.mount(self.bank)
            kernel.banks.settle(self.bank, {})
        except OSError as error:
            raise KernelRefused.of(self.describe(), error) from error
        held = kernel.banks.held({}).get(self.bank.name, 0)
        if held < self.bank.pages:
            raise PagesTaken(self.bank.node, self.bank.page_kib, held, self.bank.pages)

    def inverse(self, _: Kernel) -> "SetBank":
        """Return the step that takes this one back."""
        return replace(self, present=not self.present)


@dataclass(frozen=True)
class AddPages:
    """Add `count` pages to what a node has persistently, or subtract them; others own the rest.

    All numbers are of persistent pages (`nr_hugepages` less surplus). `before` and `target` are None until the
    step is decided.
    """

    node: int
    page_kib: int
    count: int
    absorbed: int = 0
    """Surplus pages of others that the raise turned persistent, or that the give-back turns surplus again."""
    regained: int = 0
    """Surplus pages that are ours: somebody lowered the number while we held them."""
    before: int | None = None
    target: int | None = None
    kind: Literal["pages"] = "pages"

    def describe(self) -> str:
        """Say what the step does."""
        if not self.count:
            return f"make surplus {page_size(self.page_kib)} pages on node {self.node} persistent"
        verb = "reserve" if self.count >= 0 else "give back"
        return f"{verb} {abs(self.count)}×{page_size(self.page_kib)} pages on node {self.node}"

    def decided(self, kernel: Kernel, ours: int = 0, kept: int = 0) -> "AddPages":
        """Read the counters and fix the number to write.

        `ours` pages of the node lie in our banks now, and `kept` of them will when all is given back.

        A raise asks for `total + count`: the kernel first turns the node's surplus pages persistent and allocates
        only what is then missing (`set_max_huge_pages`, mm/hugetlb.c). A give-back subtracts what was added, and
        surplus that others made meanwhile stays surplus. Where less is left than is ours, somebody lowered the
        number; then it stops at what is in use, so that it takes nothing of theirs.
        """
        now = kernel.sysfs.pages(self.node, self.page_kib)
        if self.count >= 0:
            target, absorbed = now.total + self.count, max(0, now.surplus - self.regained)
        else:
            absorbed = self.absorbed
            target = now.persistent + self.count - absorbed
            if target < kept:
                target = min(now.persistent, max(0, now.in_use - ours) + kept)
        return replace(self, before=now.persistent, target=target, absorbed=absorbed)

    def apply(self, kernel: Kernel) -> None:
        """Write the number; after a short grant compact the node and ask again.

        What there is too many afterwards is told and left: somebody raised the number in the same moment.

        Raises:
            ShortGrant: the kernel reserved fewer pages than asked. The write itself never fails.
        """
        try:
            missing = self._ask(kernel)
            for _ in range(COMPACTIONS):
                if missing <= 0:
                    break
                kernel.sysfs.compact(self.node)
                missing = self._ask(kernel)
        except OSError as error:
            raise KernelRefused.of(self.describe(), error) from error
        if missing > 0:
            raise ShortGrant(self.node, self.page_kib, max(0, self.count - missing), self.count)
        if missing < 0:
            log.warning("%s: node %d has %d more now than that", self.describe(), self.node, -missing)

    def _ask(self, kernel: Kernel) -> int:
        """Write the number. Return how many pages are missing after it, or below zero how many there are too many."""
        assert self.target is not None, "a step is decided before it is applied"
        kernel.sysfs.set_pages(self.node, self.page_kib, self.target)
        return self.target - kernel.sysfs.pages(self.node, self.page_kib).persistent

    def inverse(self, kernel: Kernel) -> "AddPages":
        """Return the decided step that takes back what this one really added, were it nothing at all."""
        assert self.before is not None and self.target is not None, "a step is decided before it is taken back"
        now = kernel.sysfs.pages(self.node, self.page_kib).persistent
        added = min(max(0, now - self.before), self.target - self.before)
        return replace(self, count=-self.count, before=now, target=now - added)


@dataclass(frozen=True)
class DissolveSlice:
    """Give up the slice that CPUs were lent in, once they are the host's again. It is only ever given back."""

    kind: Literal["slice"] = "slice"

    def describe(self) -> str:
        """Say what the step does."""
        return "dissolve enclaves.slice"

    def apply(self, kernel: Kernel) -> None:
        """Dissolve it; without one nothing happens.

        Raises:
            KernelRefused: systemd or the kernel refused.
        """
        try:
            kernel.scopes.dissolve()
        except OSError as error:
            raise KernelRefused.of(self.describe(), error) from error

    def inverse(self, _: Kernel) -> "DissolveSlice":
        """Return the step itself: what took the slice is a lease, which has a way back of its own."""
        return self


@dataclass(frozen=True)
class SetCpusets:
    """Note what cpusets of cgroup v1 have of CPUs before they go offline, or give it back once they are online."""

    cpusets: tuple[Cpuset, ...]
    whole: bool
    kind: Literal["cpusets"] = "cpusets"

    def describe(self) -> str:
        """Say what the step does."""
        paths = ", ".join(cpuset.path for cpuset in self.cpusets)
        return f"give CPUs back to the cpusets {paths}" if self.whole else f"note the CPUs of the cpusets {paths}"

    def apply(self, kernel: Kernel) -> None:
        """Give back; to note it, the ledger is enough.

        A cpuset is others' and may have become what forbids it. So what is refused is told, and not tried again.
        """
        if not self.whole:
            return
        online = kernel.sysfs.online()
        for part in cpusets_with(self.cpusets, online):
            try:
                kernel.cpusets.give_back(part)
            except OSError as error:
                _tell_cut(part, error.strerror or str(error))
        for part in cpusets_with(self.cpusets, kernel.sysfs.present() - online):
            _tell_cut(part, "offline")

    def inverse(self, _: Kernel) -> "SetCpusets":
        """Return the step that takes this one back."""
        return replace(self, whole=not self.whole)


def _tell_cut(cpuset: Cpuset, reason: str) -> None:
    """Log what a cpuset does not get back."""
    log.warning("cpuset %s does not get %s back: %s", cpuset.path, named(cpuset.cpus), reason, extra=CPUSET_CUT)


Step = SetCpu | SetDriverCpus | SetBank | AddPages | DissolveSlice | SetCpusets
