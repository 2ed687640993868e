"""The doors as one value. Whatever is not behind one of them is no effect on the machine."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from ali_enclaves_allocator.kernel.processes import Processes
from ali_enclaves_allocator.kernel.sysfs import Sysfs
from ali_enclaves_allocator.model.pool import Bank, Cpuset, Lease, Pool, Sight
from ali_enclaves_allocator.model.topology import Topology


class Banks(Protocol):
    """Hugetlbfs mounts that hold pages."""

    def mount(self, bank: Bank) -> None:
        """Mount a bank of exactly its size; one that is mounted already stays as it is."""

    def carve(self, bank: Bank, lease: Lease) -> int:
        """Give a lease its pages, clear, as a file of its holder's. Return the file's fd. The bank is to be settled."""

    def settle(self, bank: Bank, leases: Mapping[str, int], seconds: float | None = None) -> bool:
        """Leave each lease its pages, by its id, and nobody else any; hold all others, as far as they can be had.

        With a time to be done in, which a page may exceed, or all that a holder makes free, return False where that
        has run out.
        """

    def settled(self, bank: Bank, leases: Mapping[str, int]) -> bool:
        """Tell whether there is nothing to settle; so it is for a bank that is not mounted."""

    def unmount(self, bank: Bank) -> None:
        """Unmount a bank, which frees its pages; one that is not mounted is no error."""

    def held(self, lent: Mapping[str, int]) -> Mapping[str, int]:
        """Return the pages that each mounted bank holds, by its name. `lent` are those of all leases, by their ids.

        What a holder makes free of its own is kept for it, and counts.
        """


class Scopes(Protocol):
    """The cgroups of leases, owned by systemd."""

    def confine(self, cpus: frozenset[int]) -> None:
        """Make these CPUs, the offline ones included, a partition that no host task can enter; with none, open it.

        Raises:
            OnlineImpossible: the kernel or another cgroup does not allow it.
        """

    def cpus(self) -> frozenset[int]:
        """Return the CPUs that are set apart for leases, whether or not the partition of them is valid."""

    def dissolve(self) -> None:
        """Give the partition's slice up, and let every host task have those of its CPUs again that are online."""

    def has_slice(self) -> bool:
        """Tell whether there is anything to dissolve."""

    def start(self, lease: Lease) -> None:
        """Move the holder into the lease's scope, on its CPUs where they are online."""

    def stop(self, lease: Lease) -> None:
        """End every task of the lease's scope, and return when none is left; without a scope nothing happens."""

    def stands(self, lease: Lease) -> bool:
        """Tell whether the lease's scope exists."""

    def give_back_after(self, lease: Lease) -> None:
        """Have what the lease holds given back when its scope ends, though no service runs then.

        Raises:
            OSError: systemd refused.
        """

    def confined(self) -> frozenset[int]:
        """Return the CPUs that no host task can enter now."""


class Cpusets(Protocol):
    """The cpusets of cgroup v1, which are others'; there may be none."""

    def having(self, lost: frozenset[int]) -> tuple[Cpuset, ...]:
        """Return the cpusets below the root that have some of these CPUs, parents first, each with those."""

    def give_back(self, cpuset: Cpuset) -> None:
        """Add CPUs to a cpuset that has lost them; one that was removed meanwhile needs none.

        Raises:
            OSError: the kernel refused.
        """


@dataclass(frozen=True)
class Kernel:
    """All that the allocator knows of the machine, and all that it can do to it."""

    sysfs: Sysfs
    banks: Banks
    processes: Processes
    scopes: Scopes
    cpusets: Cpusets

    def topology(self, pool: Pool) -> Topology:
        """Read the machine as it would be if the pool were given back."""
        given_back: dict[int, int] = {}
        for share in pool.shares:
            given_back[share.node] = given_back.get(share.node, 0) + share.pages * share.page_kib
        available = self.processes.available_kib() + sum(given_back.values())
        return self.sysfs.topology(pool.taken_cores, given_back, available, self.processes.memory_kib())

    def sight(self, pool: Pool, page_kibs: Iterable[int] = ()) -> Sight:
        """Read what the pool depends on, and the counters of these page sizes on every node."""
        sizes = {share.page_kib for share in pool.shares} | set(page_kibs)
        pages = {
            (node, kib): self.sysfs.pages(node, kib)
            for node in self.sysfs.nodes()
            for kib in self.sysfs.page_sizes(node)
            if kib in sizes
        }
        confined = self.scopes.confined() if pool.lent_cpus else frozenset()
        gone = pool.cpus - self.sysfs.present()
        driver, has_slice = self.sysfs.driver_cpus(), self.scopes.has_slice()
        return Sight(self.sysfs.online(), pages, self.banks.held(pool.lent_pages()), confined, gone, has_slice, driver)
