"""Leases as values: what one EVM holds of the pool, and the choice of it. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ali_enclaves_allocator.model import cpus
from ali_enclaves_allocator.model.choice import whole_cores
from ali_enclaves_allocator.model.placement import NodeOffer
from ali_enclaves_allocator.model.pool import Bank, Pool
from ali_enclaves_allocator.model.refusals import (
    InsufficientCpus,
    InsufficientMemory,
    LeaseLimitReached,
    LeasesDisabled,
    NotWholeCores,
)
from ali_enclaves_allocator.model.topology import Core


@dataclass(frozen=True)
class Request:
    """What a caller asks of the pool. `cpus` excludes `cpu_count`."""

    memory_mib: int
    cpu_count: int | None = None
    cpus: tuple[int, ...] | None = None
    node: int | None = None
    name: str | None = None
    online: bool = False
    annotations: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Grant:
    """What a request gets: whole cores and pages of one bank, all on one node."""

    cores: tuple[Core, ...]
    bank: Bank
    pages: int


def grant(request: Request, pool: Pool) -> Grant:
    """Choose a lease: cores, node and memory together or nothing.

    1. `max_enclaves` of the configuration in force limits how many leases exist.
    2. The cores are free cores of one node: those of `cpus`, or whole cores that make up exactly `cpu_count`.
    3. The memory, rounded up to whole pages, comes from one bank of that node.
    4. Of the nodes that fit, the one with the fewest CPUs left over, then the fewest pages, then the lowest id.

    Raises:
        LeasesDisabled: the pool's memory is not held.
        LeaseLimitReached: there are as many leases as the configuration allows.
        NotWholeCores: the CPUs cannot be whole cores of the pool.
        InsufficientCpus: no node has the CPUs free.
        InsufficientMemory: no node that has the CPUs has the memory too.
    """
    if pool.config and not pool.config.hold_memory:
        raise LeasesDisabled(pool.config.cpu_driver)
    limit = pool.config.max_enclaves if pool.config else 0
    if len(pool.leases) >= limit:
        raise LeaseLimitReached(limit, [lease.describe() for lease in pool.leases])
    free = [core for core in pool.cores if core not in pool.leased_cores]
    wanted = len(set(request.cpus or ())) or request.cpu_count or 0
    nodes = pool.nodes if request.node is None else (request.node,)
    picks = {node: _cores(request, wanted, [core for core in free if core.node == node]) for node in nodes}
    if not any(picks.values()):
        _refuse_cpus(request, wanted, pool, free, nodes)
    fits = [
        (sum(len(core.cpus) for core in free if core.node == node) - wanted, pool.free_pages(bank) - pages, node, bank)
        for node, picked in picks.items()
        for bank in pool.banks
        if picked and bank.node == node and (pages := _pages(request, bank)) <= pool.free_pages(bank)
    ]
    if not fits:
        able = [node for node, picked in picks.items() if picked]
        holders = [lease.describe() for lease in pool.leases if lease.node in able]
        raise InsufficientMemory(request.memory_mib, _offers(able, pool, free), holders)
    _, _, node, bank = min(fits, key=lambda fit: fit[:3])
    return Grant(picks[node], bank, _pages(request, bank))


def _cores(request: Request, wanted: int, free: list[Core]) -> tuple[Core, ...]:
    """Rule 2 on one node; empty where it cannot be had."""
    if request.cpus is None:
        return whole_cores(sorted(free, reverse=True), wanted)
    named = set(request.cpus)
    picked = tuple(core for core in free if named & set(core.cpus))
    return picked if named == {cpu for core in picked for cpu in core.cpus} else ()


def _refuse_cpus(request: Request, wanted: int, pool: Pool, free: list[Core], nodes: Iterable[int]) -> None:
    """Say why no node has the CPUs: not in the pool, part of a core, leased, or too few."""
    offers, there = _offers(nodes, pool, free), [cpus.format(core.cpus) for core in free if core.node in nodes]
    if request.cpus is not None:
        named = set(request.cpus)
        if absent := named - pool.cpus:
            reason = f"{cpus.are(absent)} not in the pool, which has {cpus.named(pool.cpus)}"
            raise InsufficientCpus(wanted, reason, offers, there)
        partial = [core for core in pool.cores if named & set(core.cpus) and not named >= set(core.cpus)]
        if partial:
            raise NotWholeCores(sorted(named), list(partial[0].cpus), free=there)
        holders = [lease.describe() for lease in pool.leases if named & lease.cpus]
        where = "one node" if request.node is None else f"node {request.node}"
        reason = f"held by {', '.join(holders)}" if holders else f"{cpus.are(named)} not on {where}"
        raise InsufficientCpus(wanted, reason, offers, there)
    sizes = {len(core.cpus) for core in pool.cores}
    if len(sizes) == 1 and wanted % (threads := sizes.pop()):
        raise NotWholeCores([], list(range(threads)), wanted, there)
    raise InsufficientCpus(wanted, _why_too_few(request, wanted, pool, nodes), offers, there)


def _why_too_few(request: Request, wanted: int, pool: Pool, nodes: Iterable[int]) -> str:
    """Say what is in the way of so many CPUs: who holds them, if any node of the pool has as many at all."""
    sizes = {node: sum(len(core.cpus) for core in pool.cores if core.node == node) for node in nodes}
    able = {node for node, size in sizes.items() if size >= wanted}
    if holders := [lease.describe() for lease in pool.leases if lease.node in able]:
        return f"held by {', '.join(holders)}"
    if request.node is not None:
        return f"node {request.node} has {cpus.counted(sizes.get(request.node, 0))} in the pool"
    if wanted <= len(pool.cpus):
        return "an enclave lives on one node, and none has so many in the pool"
    return f"the pool has {cpus.counted(len(pool.cpus))}"


def _pages(request: Request, bank: Bank) -> int:
    """Return the memory asked for in pages of a bank, rounded up."""
    return -(-request.memory_mib * 1024 // bank.page_kib)


def _offers(nodes: Iterable[int], pool: Pool, free: list[Core]) -> list[NodeOffer]:
    return [_offer(node, pool, free) for node in nodes]


def _offer(node: int, pool: Pool, free: list[Core]) -> NodeOffer:
    """Return the most that a lease could get on a node now."""
    memory = max((pool.free_pages(bank) * bank.page_kib // 1024 for bank in pool.banks if bank.node == node), default=0)
    return NodeOffer(node, sum(len(core.cpus) for core in free if core.node == node), memory)
