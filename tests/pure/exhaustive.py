"""The choice of nodes by trying every set of them and every set of cores: slow, and plainly right."""

from collections.abc import Iterable
from itertools import combinations, product

from ali_enclaves_allocator.model.config import Config
from ali_enclaves_allocator.model.plan import PAGE_KIB
from ali_enclaves_allocator.model.pool import Pool
from ali_enclaves_allocator.model.topology import Core, Node, Topology


def free_cores(topology: Topology, present: Pool | None = None) -> list[Core]:
    """Return the cores that a pool may have when no CPUs are named."""
    present = present or Pool()
    host = next(core for core in topology.cores if min(topology.cpus) in core.cpus)
    return [
        core
        for core in topology.cores
        if core != host
        and not set(core.cpus) & topology.fixed_cpus
        and (core in present.cores or core not in topology.torn_cores)
        and (core in present.leased_cores or not set(core.cpus) & topology.isolated)
    ]


def best_nodes(asked: Config, topology: Topology, present: Pool) -> tuple[int, ...] | None:
    """Return the nodes that rules 4 to 6 want; None where no nodes have what is asked."""
    page_kib = PAGE_KIB[asked.hugepage_size]
    pages = -(-asked.memory_mib * 1024 // page_kib)
    named = set(asked.cpu_pool or ())
    free = [core for core in topology.cores if set(core.cpus) <= named] if named else free_cores(topology, present)
    wanted = len(named) or asked.cpu_count or 0
    leased = {bank.node: 0 for bank in present.leased_banks}
    for bank in present.leased_banks:
        leased[bank.node] += bank.pages
    most = len(topology.nodes) if asked.max_enclaves > 1 else 1
    for floor in (1, 0):
        fits = [
            nodes
            for size in range(1, most + 1)
            for nodes in combinations(topology.nodes, size)
            if leased.keys() | {core.node for core in present.leased_cores} <= {node.id for node in nodes}
            and present.leased_cores <= set(free)
            and wanted in sums(([core for core in free if core.node == n.id] for n in nodes), present.leased_cores)
            and has_room(nodes, pages, page_kib, leased, floor)
        ]
        if fits:
            return min(rank(nodes, free, present) for nodes in fits)[-1]
    return None


def sums(by_node: Iterable[list[Core]], needed: frozenset[Core]) -> set[int]:
    """Return the CPU counts that cores of every node make up together, the needed ones among them."""
    counts = [
        {
            sum(len(core.cpus) for core in picked)
            for size in range(1, len(here) + 1)
            for picked in combinations(here, size)
            if needed & set(here) <= set(picked)
        }
        for here in by_node
    ]
    return {sum(some) for some in product(*counts)}


def has_room(nodes: Iterable[Node], pages: int, page_kib: int, leased: dict[int, int], floor: int) -> bool:
    """Tell whether the nodes have the memory, at least `floor` pages and what leases hold on each."""
    least = [max(floor, leased.get(node.id, 0)) for node in nodes]
    most = [max(node.available_kib // page_kib, leased.get(node.id, 0)) for node in nodes]
    return all(low <= high for low, high in zip(least, most, strict=True)) and sum(least) <= pages <= sum(most)


def rank(nodes: tuple[Node, ...], free: list[Core], present: Pool) -> tuple[int, int, int, int, tuple[int, ...]]:
    """Return what the best nodes have least of."""
    ids = tuple(sorted(node.id for node in nodes))
    kept = sum(len(core.cpus) for core in present.cores if core.node in ids)
    total = sum(len(core.cpus) for core in free if core.node in ids)
    return len(ids), -kept, total, sum(node.memory_kib for node in nodes), ids
