"""The pool as a value: what is set aside, what the kernel shows of it, and the drift between the two."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ali_enclaves_allocator.model import cpus
from ali_enclaves_allocator.model.config import Config
from ali_enclaves_allocator.model.errors import page_size
from ali_enclaves_allocator.model.topology import Core, PageCounts


@dataclass(frozen=True)
class Bank:
    """Pages of one node held in a hugetlbfs mount of their own. A bank never changes its size."""

    name: str
    node: int
    page_kib: int
    pages: int


@dataclass(frozen=True)
class Share:
    """Our part of one node's `nr_hugepages`.

    `absorbed` counts surplus pages of other programs that the kernel turned into persistent ones when we raised
    the number (`set_max_huge_pages` in mm/hugetlb.c); they are given back as surplus.
    """

    node: int
    page_kib: int
    pages: int
    absorbed: int = 0


@dataclass(frozen=True)
class Pool:
    """What is set aside for enclaves. The empty pool is the machine as it was."""

    cores: tuple[Core, ...] = ()
    banks: tuple[Bank, ...] = ()
    shares: tuple[Share, ...] = ()
    config: Config | None = None
    """The configuration in force, the one that this pool was chosen for."""

    @property
    def cpus(self) -> frozenset[int]:
        """Every CPU of the pool."""
        return frozenset(cpu for core in self.cores for cpu in core.cpus)

    @property
    def memory_mib(self) -> int:
        """Memory of all banks."""
        return sum(bank.pages * bank.page_kib for bank in self.banks) // 1024

    @property
    def nodes(self) -> tuple[int, ...]:
        """Nodes that the pool has a core or a page on."""
        return tuple(sorted({core.node for core in self.cores} | {bank.node for bank in self.banks}))

    def pages(self, node: int, page_kib: int) -> int:
        """Pages of one size on one node, over all banks."""
        return sum(b.pages for b in self.banks if (b.node, b.page_kib) == (node, page_kib))

    def share(self, node: int, page_kib: int) -> Share:
        """Our part of the node's counter; an empty one where we have none."""
        for share in self.shares:
            if (share.node, share.page_kib) == (node, page_kib):
                return share
        return Share(node, page_kib, 0)

    def describe(self) -> str:
        """Say in one clause what the pool is: `CPUs 2-3 (1 core) on node 0, 1024 MiB in 512x2M`."""
        if not self.cores and not self.banks:
            return "empty"
        count = len(self.cores)
        sizes: dict[int, int] = {}
        for bank in self.banks:
            sizes[bank.page_kib] = sizes.get(bank.page_kib, 0) + bank.pages
        pages = " + ".join(f"{number}×{page_size(kib)}" for kib, number in sorted(sizes.items()))
        nodes = ("node " if len(self.nodes) == 1 else "nodes ") + cpus.format(self.nodes)
        return (
            f"CPUs {cpus.format(self.cpus)} ({count} core{'s' * (count != 1)}) on {nodes}, "
            f"{self.memory_mib} MiB in {pages}"
        )


@dataclass(frozen=True)
class Sight:
    """What the kernel shows at one moment of everything the pool depends on."""

    online: frozenset[int]
    pages: Mapping[tuple[int, int], PageCounts] = field(default_factory=dict)
    """Counters by node and page size in KiB."""
    held: Mapping[str, int] = field(default_factory=dict)
    """Pages in use in each bank that is mounted, by its name."""


@dataclass(frozen=True)
class Drift:
    """One difference between the pool and what the kernel shows."""

    what: str
    wanted: str
    got: str

    def __str__(self) -> str:
        return f"{self.what}: {self.got}, wanted {self.wanted}"


def drift(pool: Pool, sight: Sight) -> tuple[Drift, ...]:
    """Compare the pool with what the kernel shows now."""
    found = []
    if strays := pool.cpus & sight.online:
        found.append(Drift(f"CPUs {cpus.format(strays)}", "offline", "online: the host runs on them"))
    for bank in pool.banks:
        held = sight.held.get(bank.name)
        if held is None:
            found.append(Drift(f"bank {bank.name}", f"{bank.pages} pages held", "not mounted"))
        elif held < bank.pages:
            found.append(Drift(f"bank {bank.name}", f"{bank.pages} pages held", f"{held} pages held"))
    for share in pool.shares:
        counts = sight.pages.get((share.node, share.page_kib))
        if counts is not None and counts.persistent < share.pages:
            size = page_size(share.page_kib)
            what = f"nr_hugepages of node {share.node} ({size})"
            found.append(Drift(what, f"at least {share.pages}", f"{counts.persistent} without surplus"))
    return tuple(found)
