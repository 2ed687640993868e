"""The machine as values: cores, nodes, and the hugepages of each node."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property


@dataclass(frozen=True, order=True)
class Core:
    """A set of sibling CPUs (hyper-threads) on one node.

    A core is its sibling set. The kernel's `core_id` is unique within a package only, so it is never used.
    """

    cpus: tuple[int, ...]
    node: int


@dataclass(frozen=True)
class PageCounts:
    """The counters of one page size on one node, as sysfs shows them.

    `total` is `nr_hugepages`, which includes `surplus`: pages made on demand under `nr_overcommit_hugepages`
    that return to the kernel when freed (Documentation/admin-guide/mm/hugetlbpage.rst).
    """

    total: int
    free: int
    surplus: int

    @property
    def persistent(self) -> int:
        """Pages that stay reserved when nobody uses them: what a write to `nr_hugepages` sets."""
        return self.total - self.surplus

    @property
    def in_use(self) -> int:
        """Pages that some program holds."""
        return self.total - self.free


NO_PAGES = PageCounts(total=0, free=0, surplus=0)
"""The counters of a node that has none: it has no memory, or was unplugged."""


@dataclass(frozen=True)
class Node:
    """One NUMA node. It may have no cores, or no memory.

    `cores` have at least one online CPU, or belong to the pool. `available_kib` is an upper bound of the
    memory that hugepages can still be made of: what is free and what the kernel could reclaim.
    """

    id: int
    cores: tuple[Core, ...]
    memory_kib: int
    available_kib: int
    pages: Mapping[int, PageCounts] = field(default_factory=dict)
    """Counters by page size in KiB; a size the machine does not have is missing."""
    offline: frozenset[int] = frozenset()
    """CPUs that are there but offline, and not by our doing: never ours to bring up."""


@dataclass(frozen=True)
class Topology:
    """The whole machine."""

    nodes: tuple[Node, ...]
    available_kib: int
    """Memory that programs could still get without swapping: `MemAvailable` of /proc/meminfo."""
    fixed_cpus: frozenset[int] = frozenset()
    """CPUs that the kernel keeps online (no `online` file): usually CPU 0."""
    smt: bool = False
    """Whether hyper-threads may be online; without, as under `nosmt`, a core of one CPU is whole."""
    isolated: frozenset[int] = frozenset()
    """CPUs that the administrator keeps for purposes of his own (`isolcpus=`, `nohz_full=`)."""
    driver: frozenset[int] | None = None
    """CPUs that the driver `nitro_enclaves` has; None where it is not loaded."""

    @cached_property
    def cores(self) -> tuple[Core, ...]:
        """Every core of the machine, by node, then by lowest CPU."""
        return tuple(core for node in self.nodes for core in node.cores)

    @cached_property
    def cpus(self) -> frozenset[int]:
        """Every CPU that is online or in the pool."""
        return frozenset(cpu for core in self.cores for cpu in core.cpus)

    @cached_property
    def threads_per_core(self) -> int:
        """Hyper-threads of the widest core: 1 without SMT."""
        return max((len(core.cpus) for core in self.cores), default=1)

    @cached_property
    def host_core(self) -> Core:
        """The core of the lowest CPU (CPU 0), which always stays with the host."""
        return min(self.cores)

    @cached_property
    def torn_cores(self) -> frozenset[Core]:
        """Cores that may have a hyper-thread which others took offline, and which may come back any time.

        The kernel forgets whose sibling an offline CPU is, so on a node that has one every core with fewer CPUs
        than a core can have is under suspicion.
        """
        if not self.smt:
            return frozenset()
        widest = max(2, self.threads_per_core)
        return frozenset(core for node in self.nodes if node.offline for core in node.cores if len(core.cpus) < widest)

    def within(self, room_kib: Mapping[int, int]) -> "Topology":
        """Return the machine with no more memory to be had on these nodes."""
        return replace(
            self,
            nodes=tuple(
                replace(node, available_kib=min(node.available_kib, room_kib.get(node.id, node.available_kib)))
                for node in self.nodes
            ),
        )

    def node(self, number: int) -> Node:
        """Return the node with that id.

        Raises:
            KeyError: there is no such node.
        """
        for node in self.nodes:
            if node.id == number:
                return node
        raise KeyError(number)
