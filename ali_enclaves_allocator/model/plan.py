"""The choice: which cores and how many pages of which node become the pool.

Pure and deterministic: the same configuration, machine and present pool always give the same plan.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from ali_enclaves_allocator.model import cpus
from ali_enclaves_allocator.model.choice import reachable, whole_cores
from ali_enclaves_allocator.model.config import Config
from ali_enclaves_allocator.model.errors import (
    HostMemoryTooLow,
    LeaseInTheWay,
    MachineTooSmall,
    Misfit,
    NodeOffer,
    NoNodeFits,
)
from ali_enclaves_allocator.model.pool import Pool
from ali_enclaves_allocator.model.topology import Core, Node, Topology

PAGE_KIB = {"2M": 2048, "1G": 1024 * 1024}
"""Page size in KiB by its name in the file."""


@dataclass(frozen=True)
class Plan:
    """What we want of the kernel: these cores offline and these pages, by node, held."""

    cores: tuple[Core, ...]
    page_kib: int
    pages: Mapping[int, int]


def choose(config: Config, topology: Topology, present: Pool) -> Plan:
    """Choose the pool. `topology` shows the machine as if `present` were given back.

    1. The host keeps the core of CPU 0, every CPU that cannot go offline, and so at least one core.
    2. Memory is rounded up to whole pages; `host_memory_mib` must stay available.
    3. The cores are those of `cpu_pool`, or whole cores that make up exactly `cpu_count`: present cores of the
       pool first, so that a change touches only the difference, then the highest CPUs first.
    4. An EVM lives on one node, so the pool is on one node where it can be; with `max_enclaves` above 1 it may
       span nodes, on as few as possible, its memory in proportion to the CPUs of each.
    5. Of the nodes that fit cores and memory: the one with most of the present pool, then with the least left
       over (CPUs, then memory), then the lowest id.
    6. What leases hold stays: their cores, and their banks, which cannot be cut.

    Raises:
        MachineTooSmall: no core could be taken at all.
        Misfit: the request cannot be whole cores of this machine.
        NoNodeFits: cores or memory are not there; says for each node what is missing.
        HostMemoryTooLow: the host would be left with too little memory.
        LeaseInTheWay: what is asked cannot be had without cutting a lease.
    """
    if len(topology.cpus) < 2 * topology.threads_per_core:
        raise MachineTooSmall(len(topology.cpus), 2 * topology.threads_per_core)
    page_kib = _require_page_size(config, topology)
    pages = -(-config.memory_mib * 1024 // page_kib)
    candidates = tuple(_named_cores(config, topology) if config.cpu_pool else _free_cores(topology))
    wanted = len(config.cpu_pool or ()) or config.cpu_count or 0
    if not config.cpu_pool:
        _require_whole_cores(wanted, candidates, topology.threads_per_core)
    leased = _leased_pages(present, page_kib)
    for nodes in _node_sets(topology, candidates, config, present):
        cores = _pick(nodes, candidates, wanted, present)
        room = {node.id: node.available_kib // page_kib for node in nodes}
        split = _split(pages, cores, room, leased) if present.leased_cores <= set(cores) else {}
        if split and leased.keys() <= split.keys():
            _require_host_memory(config, topology, pages * page_kib // 1024)
            return Plan(tuple(sorted(cores)), page_kib, split)
    if present.leases:
        raise LeaseInTheWay(_in_the_way(present, choose(config, topology, replace(present, leases=()))))
    raise NoNodeFits(wanted, pages * page_kib // 1024, [_offer(node, candidates, page_kib) for node in topology.nodes])


def _require_page_size(config: Config, topology: Topology) -> int:
    """Return the size of a page in KiB; every node has the same sizes, and not every CPU has 1G."""
    page_kib = PAGE_KIB[config.hugepage_size]
    there = sorted({kib for node in topology.nodes for kib in node.pages})
    if page_kib not in there:
        sizes = " or ".join(name for name, kib in PAGE_KIB.items() if kib in there) or "a kernel with hugepages"
        raise Misfit("hugepage_size", f"this machine has no {config.hugepage_size} pages; wanted {sizes}")
    return page_kib


def _in_the_way(present: Pool, without: Plan) -> list[str]:
    """Name the leases that the plan made without regard to any would cut; where their sum is too much, all."""
    cut = [
        lease.describe()
        for lease in present.leases
        if not set(lease.cores) <= set(without.cores) or without.pages.get(lease.node, 0) < lease.pages
    ]
    return cut or [lease.describe() for lease in present.leases]


def _free_cores(topology: Topology) -> Iterator[Core]:
    """Rule 1: every core that the host need not keep."""
    for core in topology.cores:
        if core != topology.host_core and not topology.fixed_cpus & set(core.cpus):
            yield core


def _named_cores(config: Config, topology: Topology) -> Iterator[Core]:
    """Rule 3 for `cpu_pool`: the cores it names, every one of them whole and free to take."""
    named = set(config.cpu_pool or ())
    if absent := named - topology.cpus:
        online = cpus.format(topology.cpus)
        raise Misfit("cpu_pool", f"CPUs {cpus.format(absent)} are not online; wanted some of {online}")
    kept = set(topology.host_core.cpus) | topology.fixed_cpus
    if mine := named & kept:
        raise Misfit(
            "cpu_pool", f"CPUs {cpus.format(mine)} must stay with the host, with their core {cpus.format(kept)}"
        )
    cores = [core for core in topology.cores if named & set(core.cpus)]
    if partial := [core for core in cores if not named >= set(core.cpus)]:
        missing = set(partial[0].cpus) - named
        raise Misfit(
            "cpu_pool",
            f"got part of core {cpus.format(partial[0].cpus)}, wanted whole cores: {cpus.format(missing)} is missing",
        )
    nodes = {core.node for core in cores}
    if len(nodes) > 1 and config.max_enclaves == 1:
        raise Misfit("cpu_pool", f"got CPUs on nodes {cpus.format(nodes)}, wanted one node: an EVM lives on one")
    yield from cores


def _require_whole_cores(wanted: int, candidates: Sequence[Core], threads: int) -> None:
    """Rule 3 for `cpu_count`: refuse a count that no whole cores can make up."""
    total = sum(len(core.cpus) for core in candidates)
    if wanted > total or reachable(candidates)[0] >> wanted & 1:
        return
    below, above = wanted // threads * threads, (wanted // threads + 1) * threads
    nearest = f"{below} or {above}" if below else f"{above}"
    raise Misfit("cpu_count", f"got {wanted}, wanted whole cores of {threads} CPUs: {nearest}")


def _node_sets(
    topology: Topology, candidates: Sequence[Core], config: Config, present: Pool
) -> Iterator[tuple[Node, ...]]:
    """Rules 4 and 5: the sets of nodes to try, the best first."""

    def order(nodes: tuple[Node, ...]) -> tuple[int, int, int, list[int]]:
        ids = {node.id for node in nodes}
        kept = sum(len(core.cpus) for core in present.cores if core.node in ids)
        cpu_total = sum(len(core.cpus) for core in candidates if core.node in ids)
        return -kept, cpu_total, sum(node.memory_kib for node in nodes), sorted(ids)

    with_cores = {core.node for core in candidates}
    nodes = [node for node in topology.nodes if node.id in with_cores]
    sizes = {len(with_cores)} if config.cpu_pool else range(1, len(nodes) + 1 if config.max_enclaves > 1 else 2)
    for size in sizes:
        yield from sorted(combinations(nodes, size), key=order)


def _pick(nodes: Iterable[Node], candidates: Sequence[Core], wanted: int, present: Pool) -> tuple[Core, ...]:
    """Rule 3: exactly `wanted` CPUs in whole cores, at least one core of each node; empty when impossible."""
    ids = {node.id for node in nodes}
    ranked = sorted(
        (core for core in candidates if core.node in ids),
        key=lambda core: (core not in present.leased_cores, core not in present.cores, [-cpu for cpu in core.cpus]),
    )
    first = {core.node: core for core in reversed(ranked)}
    ranked.sort(key=lambda core: core != first[core.node])
    picked = whole_cores(ranked, wanted)
    return picked if {core.node for core in picked} == ids else ()


def _leased_pages(present: Pool, page_kib: int) -> dict[int, int]:
    """Rule 6: the pages that each node must keep. A lease of another page size can be kept by no plan."""
    banks = present.leased_banks
    if any(bank.page_kib != page_kib for bank in banks):
        raise LeaseInTheWay([lease.describe() for lease in present.leases if lease.page_kib != page_kib])
    return {node: sum(bank.pages for bank in banks if bank.node == node) for node in {bank.node for bank in banks}}


def _split(pages: int, cores: Iterable[Core], room: Mapping[int, int], leased: Mapping[int, int]) -> dict[int, int]:
    """Rule 4: pages by node in proportion to the CPUs on it, within its room and its leases; empty when impossible."""
    weight: dict[int, int] = {}
    for core in cores:
        weight[core.node] = weight.get(core.node, 0) + len(core.cpus)
    total = sum(weight.values())
    split = {n: max(min(pages * part // total, room[n]), leased.get(n, 0)) for n, part in weight.items()}
    by_weight = sorted(split, key=lambda node: (-weight[node], node))
    for node in by_weight:
        missing = pages - sum(split.values())
        split[node] += min(max(missing, leased.get(node, 0) - split[node]), max(0, room[node] - split[node]))
    return split if sum(split.values()) == pages else {}


def _require_host_memory(config: Config, topology: Topology, memory_mib: int) -> None:
    """Rule 2: leave the host its memory."""
    available_mib = topology.available_kib // 1024
    if available_mib - memory_mib < config.host_memory_mib:
        raise HostMemoryTooLow(available_mib, memory_mib, config.host_memory_mib)


def _offer(node: Node, candidates: Iterable[Core], page_kib: int) -> NodeOffer:
    """Return what one node could give."""
    total = sum(len(core.cpus) for core in candidates if core.node == node.id)
    return NodeOffer(node.id, total, node.available_kib // page_kib * page_kib // 1024)
