"""The pool as a value: what is set aside, what the kernel shows of it, and the drift between the two."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

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
    """Our part of one node's `nr_hugepages`. Its pages lie in banks, unless `hold_memory` leaves them free.

    `absorbed` counts surplus pages of other programs that the kernel turned into persistent ones when we raised
    the number (`set_max_huge_pages` in mm/hugetlb.c); they are given back as surplus.
    """

    node: int
    page_kib: int
    pages: int
    absorbed: int = 0


@dataclass(frozen=True)
class Holder:
    """The process that a lease belongs to: a pid and when it started, so that a reused pid is somebody else."""

    pid: int
    started: int
    """Clock ticks from boot (field 22 of /proc/pid/stat, proc(5))."""
    uid: int
    gid: int
    comm: str


@dataclass(frozen=True)
class Lease:
    """The part of the pool that one EVM holds, for as long as its holder lives."""

    id: str
    """16 hexadecimal digits; the scope, the file in the bank and the EnclaveID carry it too."""
    name: str | None
    cores: tuple[Core, ...]
    bank: str
    """The bank that its pages lie in."""
    node: int
    page_kib: int
    pages: int
    online: bool
    """Whether its CPUs are online, for this kernel to run an EVM on them."""
    holder: Holder
    since: float
    """Unix time of the grant."""
    annotations: dict[str, Any]
    """What the holder wants others to know of its EVM."""
    granted: bool = False
    """Whether it was, or may have been, answered; one that was not is taken back at the next start."""

    @property
    def cpus(self) -> frozenset[int]:
        """Every CPU of its cores."""
        return frozenset(cpu for core in self.cores for cpu in core.cpus)

    @property
    def memory_mib(self) -> int:
        """Its memory."""
        return self.pages * self.page_kib // 1024

    def describe(self) -> str:
        """Say who holds what: `web (CPUs 2-3, 1024 MiB)`."""
        return f"{self.name or self.id} ({cpus.named(self.cpus)}, {self.memory_mib} MiB)"


@dataclass(frozen=True, order=True)
class Cpuset:
    """A cpuset of cgroup v1, and those of its CPUs that the kernel takes out of it when they go offline."""

    path: str
    """Below the root of that hierarchy."""
    cpus: tuple[int, ...]


def cpusets_with(cpusets: Iterable[Cpuset], cpus: frozenset[int]) -> tuple[Cpuset, ...]:
    """Return what cpusets had of these CPUs, each cpuset once, parents first."""
    had: dict[str, set[int]] = {}
    for cpuset in cpusets:
        had.setdefault(cpuset.path, set()).update(cpus.intersection(cpuset.cpus))
    return tuple(Cpuset(path, tuple(sorted(its))) for path, its in sorted(had.items()) if its)


@dataclass(frozen=True)
class Pool:
    """What is set aside for enclaves. The empty pool is the machine as it was."""

    cores: tuple[Core, ...] = ()
    banks: tuple[Bank, ...] = ()
    shares: tuple[Share, ...] = ()
    config: Config | None = None
    """The configuration in force, the one that this pool was chosen for."""

    leases: tuple[Lease, ...] = ()
    cpusets: tuple[Cpuset, ...] = ()
    """What other programs' cpusets had of CPUs that the host cannot use, and get back with them; of cgroup v1 only."""

    @property
    def leased_cores(self) -> frozenset[Core]:
        """The cores that leases hold."""
        return frozenset(core for lease in self.leases for core in lease.cores)

    @property
    def taken_cores(self) -> frozenset[Core]:
        """The cores that the host cannot use: all, or with `offline: leased` those that leases hold."""
        return self.leased_cores if self.config and self.config.offline == "leased" else frozenset(self.cores)

    @property
    def taken_cpus(self) -> frozenset[int]:
        """The CPUs of those cores."""
        return frozenset(cpu for core in self.taken_cores for cpu in core.cpus)

    @property
    def offline_cpus(self) -> frozenset[int]:
        """The CPUs that must be offline: those of the taken cores that are not lent online."""
        return self.taken_cpus - self.lent_cpus

    @property
    def driver_cpus(self) -> frozenset[int]:
        """The CPUs that the driver `nitro_enclaves` must have."""
        return self.cpus if self.config and self.config.cpu_driver == "nitro_enclaves" else frozenset()

    @property
    def lent_cpus(self) -> frozenset[int]:
        """The CPUs of online leases, which this kernel runs EVMs on."""
        return frozenset(cpu for lease in self.leases if lease.online for cpu in lease.cpus)

    @property
    def leased_banks(self) -> tuple[Bank, ...]:
        """The banks that some lease has pages of."""
        names = {lease.bank for lease in self.leases}
        return tuple(bank for bank in self.banks if bank.name in names)

    def free_pages(self, bank: Bank) -> int:
        """Pages of a bank that no lease has: those of its hold file, once it is settled."""
        return bank.pages - sum(self.lent_pages(bank).values())

    def lent_pages(self, bank: Bank | None = None) -> dict[str, int]:
        """Return the pages that each lease has, of one bank or of all, by its id."""
        return {lease.id: lease.pages for lease in self.leases if bank is None or lease.bank == bank.name}

    def with_lease(self, lease: Lease) -> "Pool":
        """Return the pool with this lease added, or put in the place of the one with its id."""
        return replace(self, leases=(*self.without_lease(lease.id).leases, lease))

    def without_lease(self, id: str) -> "Pool":
        """Return the pool without the lease of that id."""
        return replace(self, leases=tuple(lease for lease in self.leases if lease.id != id))

    def noting(self, cpusets: Iterable[Cpuset]) -> "Pool":
        """Return the pool with a note of what these cpusets had, too, of the CPUs that the host cannot use."""
        return replace(self, cpusets=cpusets_with((*self.cpusets, *cpusets), self.taken_cpus))

    @property
    def cpus(self) -> frozenset[int]:
        """Every CPU of the pool."""
        return frozenset(cpu for core in self.cores for cpu in core.cpus)

    @property
    def memory_mib(self) -> int:
        """All of its memory."""
        return sum(share.pages * share.page_kib for share in self.shares) // 1024

    @property
    def nodes(self) -> tuple[int, ...]:
        """Nodes that the pool has a core or a page on."""
        return tuple(sorted({core.node for core in self.cores} | {share.node for share in self.shares}))

    def pages(self, node: int, page_kib: int) -> int:
        """Pages of one size on one node."""
        return self.share(node, page_kib).pages

    def share(self, node: int, page_kib: int) -> Share:
        """Our part of the node's counter; an empty one where we have none."""
        for share in self.shares:
            if (share.node, share.page_kib) == (node, page_kib):
                return share
        return Share(node, page_kib, 0)

    def describe(self) -> str:
        """Say in one clause what the pool is: `CPUs 2-3 (1 core) on node 0, 1024 MiB in 512x2M`."""
        if not self.cores and not self.shares:
            return "empty"
        count = len(self.cores)
        sizes: dict[int, int] = {}
        for share in self.shares:
            sizes[share.page_kib] = sizes.get(share.page_kib, 0) + share.pages
        pages = " + ".join(f"{number}×{page_size(kib)}" for kib, number in sorted(sizes.items()))
        nodes = ("node " if len(self.nodes) == 1 else "nodes ") + cpus.format(self.nodes)
        return (
            f"{cpus.named(self.cpus)} ({count} core{'s' * (count != 1)}) on {nodes}, {self.memory_mib} MiB in {pages}"
        )


@dataclass(frozen=True)
class Sight:
    """What the kernel shows at one moment of everything the pool depends on."""

    online: frozenset[int]
    pages: Mapping[tuple[int, int], PageCounts] = field(default_factory=dict)
    """Counters by node and page size in KiB."""
    held: Mapping[str, int] = field(default_factory=dict)
    """Pages in use in each bank that is mounted, by its name."""
    confined: frozenset[int] = frozenset()
    """CPUs that are in a partition which no host task can enter."""
    gone: frozenset[int] = frozenset()
    """CPUs of the pool that the machine no longer has: they were unplugged."""
    has_slice: bool = False
    """Whether the slice is there that CPUs were lent in."""
    driver: frozenset[int] | None = None
    """CPUs that the driver `nitro_enclaves` has; None where it is not loaded."""


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
    return (*_cpu_drift(pool, sight), *_memory_drift(pool, sight))


def _cpu_drift(pool: Pool, sight: Sight) -> Iterator[Drift]:
    if strays := pool.offline_cpus & sight.online:
        yield Drift(cpus.named(strays), "offline", "online: the host runs on them")
    if sight.gone:
        them = "it" if len(sight.gone) == 1 else "them"
        yield Drift(cpus.named(sight.gone), "present", f"unplugged: the machine no longer has {them}")
    if absent := pool.cpus - pool.offline_cpus - pool.lent_cpus - sight.online - sight.gone:
        yield Drift(cpus.named(absent), "online until a lease takes them", "offline: somebody else took them")
    if shared := pool.lent_cpus - sight.confined - sight.gone:
        yield Drift(cpus.named(shared), "lent, in a partition of their own", "shared with the host")
    if pool.driver_cpus and pool.driver_cpus != sight.driver:
        got = "not loaded" if sight.driver is None else f"has {cpus.named(sight.driver)}"
        yield Drift("the nitro_enclaves driver", f"to have {cpus.named(pool.driver_cpus)}", got)


def _memory_drift(pool: Pool, sight: Sight) -> Iterator[Drift]:
    for bank in pool.banks:
        held = sight.held.get(bank.name)
        if held is None:
            yield Drift(f"bank {bank.name}", f"{bank.pages} pages held", "not mounted")
        elif held < bank.pages:
            yield Drift(f"bank {bank.name}", f"{bank.pages} pages held", f"{held} pages held")
    for share in pool.shares:
        counts = sight.pages.get((share.node, share.page_kib))
        if counts is not None and counts.persistent < share.pages:
            size = page_size(share.page_kib)
            what = f"nr_hugepages of node {share.node} ({size})"
            yield Drift(what, f"at least {share.pages}", f"{counts.persistent} without surplus")
