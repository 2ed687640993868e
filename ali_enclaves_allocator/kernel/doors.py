"""The doors as one value. Whatever is not behind one of them is no effect on the machine."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from ali_enclaves_allocator.kernel.processes import Processes
from ali_enclaves_allocator.kernel.sysfs import Sysfs
from ali_enclaves_allocator.model.pool import Bank, Pool, Sight
from ali_enclaves_allocator.model.topology import Topology


class Banks(Protocol):
    """Hugetlbfs mounts that hold pages."""

    def mount(self, bank: Bank) -> None:
        """Mount a bank of exactly its size; one that is mounted already stays as it is."""

    def fill(self, bank: Bank) -> None:
        """Hold every page of the bank that is not held, on its node. Where pages run short, hold what there is."""

    def unmount(self, bank: Bank) -> None:
        """Unmount a bank, which frees its pages; one that is not mounted is no error."""

    def held(self) -> Mapping[str, int]:
        """Return the pages in use in each mounted bank, by its name."""


@dataclass(frozen=True)
class Kernel:
    """All that the allocator knows of the machine, and all that it can do to it."""

    sysfs: Sysfs
    banks: Banks
    processes: Processes

    def topology(self, pool: Pool) -> Topology:
        """Read the machine as it would be if the pool were given back."""
        pages = {(bank.node, bank.page_kib): pool.pages(bank.node, bank.page_kib) for bank in pool.banks}
        given_back = {node: sum(n * kib for (at, kib), n in pages.items() if at == node) for node, _ in pages}
        available = self.processes.available_kib() + sum(given_back.values())
        return self.sysfs.topology(pool.cores, given_back, available)

    def sight(self, pool: Pool, page_kibs: Iterable[int] = ()) -> Sight:
        """Read what the pool depends on, and the counters of these page sizes on every node."""
        sizes = {share.page_kib for share in pool.shares} | set(page_kibs)
        pages = {
            (node, kib): self.sysfs.pages(node, kib)
            for node in self.sysfs.nodes()
            for kib in self.sysfs.page_sizes(node)
            if kib in sizes
        }
        return Sight(self.sysfs.online(), pages, self.banks.held())
