"""The choice: which cores and how many pages of which node become the pool.

Pure and deterministic: the same configuration, machine and present pool always give the same plan.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ali_enclaves_allocator.model import cpus, hosts
from ali_enclaves_allocator.model.choice import on_every_node, reachable
from ali_enclaves_allocator.model.config import Config
from ali_enclaves_allocator.model.errors import LeaseInTheWay, Misfit
from ali_enclaves_allocator.model.placement import Fit, HostMemoryTooLow, MachineTooSmall, NodeOffer, NoNodeFits
from ali_enclaves_allocator.model.pool import Pool
from ali_enclaves_allocator.model.spread import Part, Spread, cheapest, largest, split, spreads
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

    1. The host keeps the core of CPU 0, every CPU that cannot go offline, and so at least one core; every core with
       a hyper-thread that others took offline; and what is isolated for other purposes, unless `cpu_pool` names it.
    2. Memory is rounded up to whole pages; `host_memory_mib` must stay available.
    3. The cores are those of `cpu_pool`, or whole cores that make up exactly `cpu_count`: present cores of the
       pool first, so that a change touches only the difference, then the highest CPUs first.
    4. An EVM lives on one node, so the pool is on one node where it can be; with `max_enclaves` above 1 it may
       span nodes, on as few as possible, its memory in proportion to the CPUs of each, but at least a page on each
       where it can be; any feasible split rather than failure.
    5. Of the nodes that fit cores and memory: those with most of the present pool, then with the least left
       over (CPUs, then memory), then the lowest ids.
    6. What leases hold stays: their cores, and their banks, which cannot be cut.
    7. The driver `nitro_enclaves` takes CPUs of one node, and only if it has none of somebody else's; while leases
       exist, CPUs neither go to it nor come from it.

    Raises:
        MachineTooSmall: no core could be taken at all.
        Misfit: the request cannot be whole cores of this machine.
        NoNodeFits: cores or memory are not there; says for each node what is missing.
        HostMemoryTooLow: the host would be left with too little memory.
        LeaseInTheWay: what is asked cannot be had without cutting a lease.
    """
    if len(topology.cpus) < 2 * topology.threads_per_core and not any(hosts.free_cores(topology, present)):
        raise MachineTooSmall(len(topology.cpus), 2 * topology.threads_per_core)
    _require_driver(config, topology, present)
    asked = _asked(config, topology, present)
    leased = _leased_pages(present, asked.page_kib)
    for floor in (1, 0):
        parts = [part for node in topology.nodes if (part := _part(node, asked, leased.get(node.id, 0), floor))]
        found = spreads(parts, asked.cpus, asked.pages, len(parts) if _may_span(config) else 1)
        keeps_leases = present.leased_cores <= set(asked.cores) and leased.keys() <= {part.node for part in parts}
        if keeps_leases and (best := cheapest(found, asked.cpus, asked.pages)):
            _require_host_memory(asked)
            return _plan(best, parts, asked)
    if present.leases:
        raise LeaseInTheWay(_in_the_way(present, choose(config, topology, replace(present, leases=()))))
    raise _nowhere(asked)


@dataclass(frozen=True)
class _Asked:
    """The request in the machine's terms."""

    config: Config
    topology: Topology
    present: Pool
    cores: tuple[Core, ...]
    """Those that may be taken."""
    cpus: int
    page_kib: int
    pages: int

    def memory_mib(self, pages: int) -> int:
        """Return the size of so many pages."""
        return pages * self.page_kib // 1024


def _asked(config: Config, topology: Topology, present: Pool) -> _Asked:
    """Rules 1 to 3: what the request means on this machine."""
    page_kib = _require_page_size(config, topology)
    pages = -(-config.memory_mib * 1024 // page_kib)
    if config.cpu_pool:
        named = tuple(_named_cores(config, topology, present))
        return _Asked(config, topology, present, named, len(config.cpu_pool), page_kib, pages)
    wanted = config.cpu_count or 0
    free = tuple(hosts.free_cores(topology, present))
    _require_whole_cores(wanted, free)
    return _Asked(config, topology, present, free, wanted, page_kib, pages)


def _part(node: Node, asked: _Asked, leased: int, floor: int) -> Part | None:
    """Rules 4 to 6: what a node can give; None where it has no core or fewer pages than the floor to give."""
    here = [core for core in asked.cores if core.node == node.id]
    kept = [core for core in here if core in asked.present.leased_cores]
    most = max(node.available_kib // asked.page_kib, leased)
    if not here or most < floor:
        return None
    width = _width(here)
    some = reachable([core for core in here if core not in kept])[0] << _width(kept)
    stays = _width(core for core in asked.present.cores if core.node == node.id)
    return Part(
        node=node.id,
        counts=1 << width if asked.config.cpu_pool else some & ~1,
        least=max(floor, leased),
        most=most,
        cost=(-stays, width, node.memory_kib),
        needed=bool(asked.config.cpu_pool or kept or leased),
    )


def _plan(best: Spread, parts: Iterable[Part], asked: _Asked) -> Plan:
    """Rules 3 and 4: the cores and the pages of a spread that has them; the same cores keep their pages."""
    ranked = sorted(
        (core for core in asked.cores if core.node in best.nodes),
        key=lambda core: (core not in asked.present.cores, [-cpu for cpu in core.cpus]),
    )
    cores = on_every_node(ranked, sorted(asked.present.leased_cores), asked.cpus)
    weight = {node: _width(core for core in cores if core.node == node) for node in best.nodes}
    least = {part.node: part.least for part in parts}
    most = {part.node: part.most for part in parts}
    pages = {node: asked.present.pages(node, asked.page_kib) for node in best.nodes}
    kept = set(cores) == set(asked.present.cores) and sum(pages.values()) == asked.pages
    if not kept or any(not least[node] <= part <= most[node] for node, part in pages.items()):
        pages = split(asked.pages, weight, least, most)
    return Plan(tuple(sorted(cores)), asked.page_kib, pages)


def _width(cores: Iterable[Core]) -> int:
    """Return how many CPUs some cores have together."""
    return sum(len(core.cpus) for core in cores)


def _nowhere(asked: _Asked) -> NoNodeFits:
    """Say for each node what was missing, and what would fit and leave the host its memory."""
    config, topology = asked.config, asked.topology
    spanning = _may_span(config) and len(topology.nodes) > 1
    parts = [part for node in topology.nodes if (part := _part(node, asked, 0, 1))]
    room = min(asked.pages, max(0, topology.available_kib - config.host_memory_mib * 1024) // asked.page_kib)
    found = spreads(parts, asked.cpus, asked.pages, len(parts) if spanning else 1)
    return NoNodeFits(
        cpus=asked.cpus,
        memory_mib=asked.memory_mib(asked.pages),
        spanning=spanning,
        nodes=[_offer(node, asked) for node in topology.nodes],
        fits=[Fit(count, asked.memory_mib(most), list(ids)) for count, most, ids in largest(found, room)],
        withheld=[] if config.cpu_pool else hosts.withheld(topology, asked.present),
    )


def _offer(node: Node, asked: _Asked) -> NodeOffer:
    """Return what one node could give: its memory, and of the CPUs wanted as many as whole cores make up."""
    counts = reachable([core for core in asked.cores if core.node == node.id])[0] & (2 << asked.cpus) - 1
    return NodeOffer(node.id, counts.bit_length() - 1, asked.memory_mib(node.available_kib // asked.page_kib))


def _require_page_size(config: Config, topology: Topology) -> int:
    """Return the size of a page in KiB; every node has the same sizes, and not every CPU has 1G."""
    page_kib = PAGE_KIB[config.hugepage_size]
    there = sorted({kib for node in topology.nodes for kib in node.pages})
    if page_kib not in there:
        sizes = " or ".join(name for name, kib in PAGE_KIB.items() if kib in there) or "a kernel with hugepages"
        raise Misfit("hugepage_size", f"this machine has no {config.hugepage_size} pages; wanted {sizes}")
    return page_kib


def _may_span(config: Config) -> bool:
    """Rules 4 and 7: whether the pool may be on more than one node."""
    return config.max_enclaves > 1 and config.cpu_driver == "sysfs"


def _require_driver(config: Config, topology: Topology, present: Pool) -> None:
    """Rule 7: the driver must be there, and ours to use."""
    was = present.config.cpu_driver if present.config else config.cpu_driver
    if present.leases and config.cpu_driver != was:
        raise LeaseInTheWay([lease.describe() for lease in present.leases])
    if config.cpu_driver == "sysfs":
        return
    if topology.driver is None:
        raise Misfit("cpu_driver", "the module nitro_enclaves is not loaded; load it first: modprobe nitro_enclaves")
    if others := topology.driver - present.driver_cpus:
        raise Misfit(
            "cpu_driver",
            f"nitro_enclaves has {cpus.named(others)} of somebody else's; wanted none: empty ne_cpus first",
        )


def _in_the_way(present: Pool, without: Plan) -> list[str]:
    """Name the leases that the plan made without regard to any would cut; where their sum is too much, all."""
    cut = [
        lease.describe()
        for lease in present.leases
        if not set(lease.cores) <= set(without.cores) or without.pages.get(lease.node, 0) < lease.pages
    ]
    return cut or [lease.describe() for lease in present.leases]


def _named_cores(config: Config, topology: Topology, present: Pool) -> Iterator[Core]:
    """Rule 3 for `cpu_pool`: the cores it names, every one of them whole and free to take."""
    named = set(config.cpu_pool or ())
    if absent := named - topology.cpus:
        offline = absent & {cpu for node in topology.nodes for cpu in node.offline}
        whose = f"; {cpus.named(offline)}: taken offline by others, so not ours to bring up" if offline else ""
        raise Misfit("cpu_pool", f"{cpus.are(absent)} not online{whose}; {hosts.to_be_had(topology, present)}")
    kept = set(topology.host_core.cpus) | topology.fixed_cpus
    if mine := named & kept:
        told = f"{cpus.named(mine)} must stay with the host, which keeps {cpus.named(kept)}"
        raise Misfit("cpu_pool", f"{told}; {hosts.to_be_had(topology, present)}")
    cores = [core for core in topology.cores if named & set(core.cpus)]
    if torn := {cpu for core in (topology.torn_cores - set(present.cores)) & set(cores) for cpu in core.cpus}:
        raise Misfit("cpu_pool", f"{cpus.named(torn)} must stay with the host: {hosts.torn(topology)}")
    if partial := [core for core in cores if not named >= set(core.cpus)]:
        missing = set(partial[0].cpus) - named
        raise Misfit(
            "cpu_pool",
            f"got part of core {cpus.format(partial[0].cpus)}, wanted whole cores: {cpus.format(missing)} is missing",
        )
    nodes = {core.node for core in cores}
    if len(nodes) > 1 and not _may_span(config):
        one = "an enclave lives on one; with max_enclaves: 2 or more the pool may span nodes"
        why = one if config.max_enclaves == 1 else "the nitro_enclaves driver takes CPUs of one"
        raise Misfit("cpu_pool", f"got CPUs on nodes {cpus.format(nodes)}, wanted one node: {why}")
    yield from cores


def _require_whole_cores(wanted: int, candidates: Sequence[Core]) -> None:
    """Rule 3 for `cpu_count`: refuse a count that no whole cores can make up."""
    counts = reachable(candidates)[0]
    if wanted >= counts.bit_length() or counts >> wanted & 1:
        return
    below = (counts & (1 << wanted) - 2).bit_length() - 1
    above = wanted + (counts >> wanted & -(counts >> wanted)).bit_length() - 1
    nearest = f"{below} or {above}" if below > 0 else f"{above}"
    widths = cpus.format({len(core.cpus) for core in candidates})
    raise Misfit("cpu_count", f"got {wanted}, wanted whole cores of {widths} CPUs: {nearest}")


def _leased_pages(present: Pool, page_kib: int) -> dict[int, int]:
    """Rule 6: the pages that each node must keep. A lease of another page size can be kept by no plan."""
    banks = present.leased_banks
    if any(bank.page_kib != page_kib for bank in banks):
        raise LeaseInTheWay([lease.describe() for lease in present.leases if lease.page_kib != page_kib])
    return {node: sum(bank.pages for bank in banks if bank.node == node) for node in {bank.node for bank in banks}}


def _require_host_memory(asked: _Asked) -> None:
    """Rule 2: leave the host its memory."""
    available_mib, memory_mib = asked.topology.available_kib // 1024, asked.memory_mib(asked.pages)
    if available_mib - memory_mib < asked.config.host_memory_mib:
        raise HostMemoryTooLow(available_mib, memory_mib, asked.config.host_memory_mib)
