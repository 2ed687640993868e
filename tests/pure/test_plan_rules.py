"""The rules of the choice, on every small machine: what is chosen follows them, and what is refused cannot be had."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ali_enclaves_allocator.model import cpus
from ali_enclaves_allocator.model.config import Config
from ali_enclaves_allocator.model.errors import AllocatorError, Misfit
from ali_enclaves_allocator.model.placement import HostMemoryTooLow, MachineTooSmall, NoNodeFits
from ali_enclaves_allocator.model.plan import PAGE_KIB, Plan, choose
from ali_enclaves_allocator.model.pool import Pool
from ali_enclaves_allocator.model.topology import Core, Node, PageCounts, Topology
from tests.machines import (
    cores,
)
from tests.pure.exhaustive import best_nodes, free_cores
from tests.pure.plans import config, pool_of


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """Draw a machine of up to 4 nodes with up to 4 cores of 1 or 2 CPUs each, numbered in any order."""
    ids = draw(st.lists(st.integers(0, 6), min_size=1, max_size=4, unique=True))
    widest = draw(st.integers(1, 2))
    widths = {node: draw(st.lists(st.integers(1, widest) | st.just(widest), max_size=4)) for node in sorted(ids)}
    count = sum(sum(part) for part in widths.values())
    numbers = iter(draw(st.one_of(st.just(list(range(count))), st.permutations(range(count)))))
    nodes, pages = [], {kib: PageCounts(total=0, free=0, surplus=0) for kib in PAGE_KIB.values()}
    for node, part in widths.items():
        made = cores(node, *(tuple(sorted(next(numbers) for _ in range(width))) for width in part))
        available = draw(st.integers(0, 300)) * 1024
        idle = draw(st.sampled_from([frozenset[int]()] * 5 + [frozenset({99})]))
        nodes.append(Node(node, tuple(sorted(made)), draw(st.integers(300, 302)) * 1024, available, pages, idle))
    fixed = draw(st.frozensets(st.sampled_from(range(count)), max_size=2)) if count else frozenset()
    isolated = draw(st.sampled_from([frozenset[int]()] * 3 + [frozenset(range(count // 2, count))]))
    return Topology(tuple(nodes), draw(st.integers(200, 1200)) * 1024, fixed, draw(st.booleans()), isolated)


@st.composite
def configs(draw: st.DrawFn, topology: Topology) -> Config:
    """Draw a configuration that may suit the machine."""
    keys: dict[str, Any] = {
        "memory_mib": draw(st.integers(1, 300)),
        "max_enclaves": draw(st.integers(1, 4)),
        "hugepage_size": draw(st.sampled_from(["2M"] * 9 + ["1G"])),
    }
    free = free_cores(replace(topology, isolated=frozenset())) if topology.cores else []
    named = draw(st.lists(st.sampled_from(free), min_size=1, max_size=8, unique=True)) if free else []
    if draw(st.integers(0, 9)) == 0 or not free:
        keys["cpu_count"] = draw(st.integers(1, 17))
    elif draw(st.integers(0, 3)):
        keys["cpu_count"] = sum(len(core.cpus) for core in named)
    else:
        stray = draw(st.lists(st.sampled_from(topology.cores), max_size=1))
        keys["cpu_pool"] = cpus.format(cpu for core in (*named, *stray) for cpu in core.cpus)
    return config(**keys)


@st.composite
def requests(draw: st.DrawFn) -> tuple[Config, Topology, Pool]:
    """Draw a machine, a configuration, and a pool that another configuration may have made there."""
    topology = draw(topologies())
    present = Pool()
    if draw(st.booleans()):
        try:
            present = pool_of(choose(draw(configs(topology)), topology, Pool()))
        except AllocatorError:
            present = Pool()
    return draw(configs(topology)), topology, present


def suits(asked: Config, picked: Iterable[Core]) -> bool:
    """Tell whether these cores are what is asked."""
    numbers = sorted(cpu for core in picked for cpu in core.cpus)
    return numbers == list(asked.cpu_pool) if asked.cpu_pool else len(numbers) == asked.cpu_count


def subsets(of: Iterable[Core]) -> Iterable[tuple[Core, ...]]:
    every = list(of)
    return (picked for size in range(1, len(every) + 1) for picked in combinations(every, size))


@settings(max_examples=300)
@given(requests())
def test_every_plan_follows_every_rule(request: tuple[Config, Topology, Pool]) -> None:
    asked, topology, present = request
    try:
        plan = choose(asked, topology, present)
    except AllocatorError as refusal:
        assert_refused_rightly(refusal, asked, topology, present)
        return
    named = set(asked.cpu_pool or ())
    known = replace(topology, isolated=topology.isolated - named)
    assert set(plan.cores) <= set(free_cores(known, present)), "rule 1"
    reserved_kib = sum(plan.pages.values()) * plan.page_kib
    assert plan.page_kib == PAGE_KIB[asked.hugepage_size]
    assert 0 <= reserved_kib - asked.memory_mib * 1024 < plan.page_kib, "rule 2"
    assert topology.available_kib - reserved_kib >= asked.host_memory_mib * 1024, "rule 2"
    assert suits(asked, plan.cores), "rule 3"
    assert all(plan.pages[node] * plan.page_kib <= topology.node(node).available_kib for node in plan.pages)
    assert_placed_rightly(plan, asked, topology, present)
    assert choose(asked, replace(topology, nodes=topology.nodes[::-1]), present) == plan, "deterministic"
    assert choose(asked, topology, pool_of(plan)) == plan, "stable"


def assert_placed_rightly(plan: Plan, asked: Config, topology: Topology, present: Pool) -> None:
    """Check rules 4 and 5."""
    nodes = {core.node for core in plan.cores}
    assert nodes == set(plan.pages), "memory is where the cores are"
    assert tuple(sorted(nodes)) == best_nodes(asked, topology, present)
    assert_in_proportion(plan, topology)
    here = {core for core in present.cores if core.node in nodes}
    if (
        not asked.cpu_pool
        and len({len(core.cpus) for core in topology.cores}) == 1
        and here <= set(free_cores(topology))
    ):
        assert here <= set(plan.cores) or set(plan.cores) <= here or len(nodes) > 1, "only the difference is touched"


def assert_in_proportion(plan: Plan, topology: Topology) -> None:
    """Check that memory is spread as the CPUs are, but for rounding, where every node has the room."""
    pages = sum(plan.pages.values())
    total = sum(len(core.cpus) for core in plan.cores)
    if all(topology.node(node).available_kib // plan.page_kib >= pages for node in plan.pages):
        for node, count in plan.pages.items():
            part = sum(len(core.cpus) for core in plan.cores if core.node == node)
            assert abs(count - pages * part / total) < len(plan.pages) + 1


def assert_refused_rightly(refusal: AllocatorError, asked: Config, topology: Topology, present: Pool) -> None:
    """Check that what was refused cannot be had."""
    free = free_cores(topology, present) if topology.cores else []
    match refusal:
        case MachineTooSmall():
            assert len(topology.cpus) < 2 * max((len(core.cpus) for core in topology.cores), default=1)
        case Misfit(key="cpu_count"):
            assert not any(suits(asked, picked) for picked in subsets(free))
        case Misfit(key="cpu_pool"):
            nodes = {core.node for core in topology.cores if set(core.cpus) & set(asked.cpu_pool or ())}
            named = set(asked.cpu_pool or ()) & topology.isolated
            free = free_cores(replace(topology, isolated=topology.isolated - named))
            whole = any(suits(asked, picked) for picked in subsets(free))
            assert not whole or (len(nodes) > 1 and asked.max_enclaves == 1)
        case NoNodeFits():
            assert best_nodes(asked, topology, present) is None
            for fit in refusal.fits:
                assert fit.cpus <= refusal.cpus and fit.memory_mib <= refusal.memory_mib
                if not asked.cpu_pool:
                    smaller = {"cpu_count": fit.cpus, "memory_mib": fit.memory_mib}
                    plan = choose(asked.model_copy(update=smaller), topology, present)
                    assert sum(plan.pages.values()) * plan.page_kib == fit.memory_mib * 1024
        case HostMemoryTooLow():
            page_kib = PAGE_KIB[asked.hugepage_size]
            reserved_kib = -(-asked.memory_mib * 1024 // page_kib) * page_kib
            assert topology.available_kib // 1024 - reserved_kib // 1024 < asked.host_memory_mib
        case _:
            raise AssertionError(refusal)
