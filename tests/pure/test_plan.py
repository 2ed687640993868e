"""The choice, on named machines and on every small one."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ali_enclaves_allocator.model import cpus
from ali_enclaves_allocator.model.config import Config
from ali_enclaves_allocator.model.errors import AllocatorError, Misfit
from ali_enclaves_allocator.model.placement import HostMemoryTooLow, MachineTooSmall, NoNodeFits
from ali_enclaves_allocator.model.plan import PAGE_KIB, Plan, choose
from ali_enclaves_allocator.model.pool import Bank, Pool, Share
from ali_enclaves_allocator.model.topology import Core, Node, PageCounts, Topology
from tests.machines import (
    ALL_FIXED_ON_NODE_1,
    ALL_TORN,
    DUAL_SOCKET_HT,
    FOUR_NODES,
    GUEST_2X2X2,
    HUGE,
    ISOLATED,
    LONE_CORE_BEYOND,
    LONE_THREAD,
    MIXED_SMT,
    NO_MEMORY_ON_NODE_1,
    NO_NUMA,
    NO_SMT,
    NODE_HOLES,
    NOSMT,
    ONE_CORE,
    ONE_CORE_LEFT,
    ONE_NODE,
    SMALL_PAGE_KIB,
    TORN_CORES,
    TORN_HOST_CORE,
    Machine,
    cores,
)
from tests.pure.exhaustive import best_nodes, free_cores


def config(**keys: Any) -> Config:
    return Config.model_validate({"memory_mib": 64, "host_memory_mib": 64} | keys)


def pool_of(plan: Plan) -> Pool:
    """Return the pool that stands when this plan is carried out."""
    banks = tuple(Bank(f"bank{node}", node, plan.page_kib, pages) for node, pages in plan.pages.items() if pages)
    return Pool(plan.cores, banks, tuple(Share(bank.node, bank.page_kib, bank.pages) for bank in banks))


def cpu_list(plan: Plan) -> str:
    return cpus.format(cpu for core in plan.cores for cpu in core.cpus)


@pytest.mark.parametrize(
    ("machine", "keys", "wanted_cpus", "wanted_pages"),
    [
        (GUEST_2X2X2, {"cpu_count": 2}, "2-3", {0: 32}),
        (GUEST_2X2X2, {"cpu_count": 4}, "4-7", {1: 32}),
        (GUEST_2X2X2, {"cpu_count": 4, "max_enclaves": 2}, "4-7", {1: 32}),
        (GUEST_2X2X2, {"cpu_count": 6, "max_enclaves": 2}, "2-7", {0: 10, 1: 22}),
        (GUEST_2X2X2, {"cpu_pool": "6-7"}, "6-7", {1: 32}),
        (GUEST_2X2X2, {"cpu_pool": "2-3,6-7", "max_enclaves": 2}, "2-3,6-7", {0: 16, 1: 16}),
        (GUEST_2X2X2, {"cpu_count": 2, "memory_mib": 65}, "2-3", {0: 33}),
        (GUEST_2X2X2, {"cpu_count": 2, "hugepage_size": "1G", "memory_mib": 1025}, "2-3", {0: 2}),
        (GUEST_2X2X2, {"cpu_count": 4, "max_enclaves": 2, "memory_mib": 5000}, "2-3,6-7", {0: 1250, 1: 1250}),
        (DUAL_SOCKET_HT, {"cpu_count": 2}, "3,11", {0: 32}),
        (DUAL_SOCKET_HT, {"cpu_count": 6}, "1-3,9-11", {0: 32}),
        (DUAL_SOCKET_HT, {"cpu_count": 8}, "4-7,12-15", {1: 32}),
        (NO_SMT, {"cpu_count": 3}, "1-3", {0: 32}),
        (ONE_NODE, {"cpu_count": 2}, "6-7", {0: 32}),
        (FOUR_NODES, {"cpu_count": 4}, "4-7", {1: 32}),
        (FOUR_NODES, {"cpu_count": 6, "max_enclaves": 3}, "2-7", {0: 10, 1: 22}),
        (FOUR_NODES, {"cpu_count": 14, "max_enclaves": 4}, "2-15", {0: 4, 1: 10, 2: 9, 3: 9}),
        (ONE_CORE_LEFT, {"cpu_count": 2}, "2-3", {0: 32}),
        (TORN_CORES, {"cpu_count": 2}, "4-5", {0: 32}),
        (TORN_HOST_CORE, {"cpu_count": 2}, "2-3", {0: 32}),
        (NOSMT, {"cpu_count": 3}, "1-3", {0: 32}),
        (NOSMT, {"cpu_count": 4}, "4-7", {1: 32}),
        (NOSMT, {"cpu_pool": "5"}, "5", {1: 32}),
        (MIXED_SMT, {"cpu_count": 1}, "8", {0: 32}),
        (LONE_CORE_BEYOND, {"cpu_count": 2}, "6-7", {1: 32}),
        (MIXED_SMT, {"cpu_count": 4}, "4-5,7-8", {0: 32}),
        (MIXED_SMT, {"cpu_pool": "4-6"}, "4-6", {0: 32}),
        (NO_MEMORY_ON_NODE_1, {"cpu_count": 2}, "2-3", {0: 32}),
        (NO_MEMORY_ON_NODE_1, {"cpu_count": 6, "max_enclaves": 2}, "2-7", {0: 32, 1: 0}),
        (NO_NUMA, {"cpu_count": 4}, "4-7", {0: 32}),
        (ISOLATED, {"cpu_count": 2}, "2-3", {0: 32}),
        (ISOLATED, {"cpu_pool": "4-7"}, "4-7", {0: 32}),
        (HUGE, {"cpu_count": 256, "memory_mib": 2000}, "128-255,2176-2303", {1: 1000}),
        (HUGE, {"cpu_pool": "4000-4095,1952-2047"}, "1952-2047,4000-4095", {15: 32}),
        (LONE_THREAD, {"cpu_count": 1}, "4", {0: 32}),
        (LONE_THREAD, {"cpu_count": 2}, "2-3", {0: 32}),
        (LONE_THREAD, {"cpu_count": 3}, "2-4", {0: 32}),
        (ONE_NODE, {"cpu_count": 2, "memory_mib": 4032}, "6-7", {0: 2016}),
        (NODE_HOLES, {"cpu_count": 2}, "2-3", {0: 32}),
        (NODE_HOLES, {"cpu_count": 2, "memory_mib": 3000}, "10-11", {5: 1500}),
        (ALL_FIXED_ON_NODE_1, {"cpu_count": 2}, "2-3", {0: 32}),
    ],
)
def test_chooses(machine: Machine, keys: dict[str, Any], wanted_cpus: str, wanted_pages: dict[int, int]) -> None:
    plan = choose(config(**keys), machine.topology(), Pool())
    assert (cpu_list(plan), plan.pages) == (wanted_cpus, wanted_pages)


@pytest.mark.parametrize(
    ("machine", "keys", "told"),
    [
        (
            ONE_CORE,
            {"cpu_count": 2},
            "cannot set a pool aside: 2 CPUs online here, at least 4 are needed; nothing was changed\n"
            "  (one physical core with all its hyper-threads stays with the host; choose a larger instance)",
        ),
        (
            GUEST_2X2X2,
            {"cpu_count": 3},
            "cpu_count: got 3, wanted whole cores of 2 CPUs: 2 or 4; nothing was changed",
        ),
        (
            replace(GUEST_2X2X2, page_kibs=(SMALL_PAGE_KIB,)),
            {"cpu_count": 2, "hugepage_size": "1G"},
            "hugepage_size: this machine has no 1G pages; wanted 2M; nothing was changed",
        ),
        (GUEST_2X2X2, {"cpu_count": 1}, "cpu_count: got 1, wanted whole cores of 2 CPUs: 2; nothing was changed"),
        (GUEST_2X2X2, {"cpu_count": 5}, "cpu_count: got 5, wanted whole cores of 2 CPUs: 4 or 6; nothing was changed"),
        (
            GUEST_2X2X2,
            {"cpu_pool": "2-3,8-9"},
            "cpu_pool: CPUs 8-9 are not online; wanted whole cores of 2-7; nothing was changed",
        ),
        (
            GUEST_2X2X2,
            {"cpu_pool": "1-3"},
            "cpu_pool: CPU 1 must stay with the host, which keeps CPUs 0-1; wanted whole cores of 2-7; "
            "nothing was changed",
        ),
        (
            GUEST_2X2X2,
            {"cpu_pool": "2-3,6"},
            "cpu_pool: got part of core 6-7, wanted whole cores: 7 is missing; nothing was changed",
        ),
        (
            GUEST_2X2X2,
            {"cpu_pool": "2-3,6-7"},
            "cpu_pool: got CPUs on nodes 0-1, wanted one node: an enclave lives on one; with "
            "max_enclaves: 2 or more the pool may span nodes; nothing was changed",
        ),
        (
            GUEST_2X2X2,
            {"cpu_count": 6},
            "cannot place 6 CPUs and 64 MiB on one node: node 0: 4 CPUs short (2 available); "
            "node 1: 2 CPUs short (4 available); nothing was changed\n"
            "  (what would fit: 4 CPUs with 64 MiB on node 1)",
        ),
        (
            GUEST_2X2X2,
            {"cpu_count": 2, "max_enclaves": 2, "memory_mib": 5000},
            "cannot place 2 CPUs and 5000 MiB over nodes: no nodes have both together; node 0: 2 CPUs and 4096 MiB "
            "available; node 1: 2 CPUs and 4096 MiB available; nothing was changed\n"
            "  (what would fit: 2 CPUs with 4096 MiB on node 0)",
        ),
        (
            GUEST_2X2X2,
            {"cpu_count": 8, "max_enclaves": 2, "memory_mib": 9000},
            "cannot place 8 CPUs and 9000 MiB over nodes: 2 CPUs short (6 available), 808 MiB short (8192 available); "
            "node 0: 2 CPUs and 4096 MiB available; node 1: 4 CPUs and 4096 MiB available; nothing was changed\n"
            "  (what would fit: 6 CPUs with 8128 MiB on nodes 0-1)",
        ),
        (
            NODE_HOLES,
            {"cpu_count": 4, "memory_mib": 4500},
            "cannot place 4 CPUs and 4500 MiB on one node: node 0: 2 CPUs short (2 available), "
            "3476 MiB short (1024 available); node 2: 2452 MiB short (2048 available); "
            "node 3: 4 CPUs short (0 available); node 5: 404 MiB short (4096 available); nothing was changed\n"
            "  (what would fit: 4 CPUs with 4096 MiB on node 5)",
        ),
        (
            TORN_CORES,
            {"cpu_count": 4},
            "cannot place 4 CPUs and 64 MiB on one node: node 0: 2 CPUs short (2 available); nothing was changed\n"
            "  (what would fit: 2 CPUs with 64 MiB on node 0; CPUs 2,6 stay with the host: a hyper-thread of the core "
            "may be one that others took offline (now 3,7) and can bring back; bring them online first: chcpu -e 3,7)",
        ),
        (
            TORN_CORES,
            {"cpu_pool": "2-3"},
            "cpu_pool: CPU 3 is not online; CPU 3: taken offline by others, so not ours to bring up; "
            "wanted whole cores of 4-5; nothing was changed",
        ),
        (
            replace(GUEST_2X2X2, isolated=frozenset({6, 7})),
            {"cpu_pool": "2-3,200"},
            "cpu_pool: CPU 200 is not online; wanted whole cores of 2-7; nothing was changed",
        ),
        (
            replace(GUEST_2X2X2, fixed_cpus=frozenset({0, 3, 4, 6})),
            {"cpu_pool": "2-3"},
            "cpu_pool: CPU 3 must stay with the host, which keeps CPUs 0-1,3-4,6; "
            "the host keeps every core of this machine; nothing was changed",
        ),
        (
            TORN_CORES,
            {"cpu_pool": "6"},
            "cpu_pool: CPU 6 must stay with the host: a hyper-thread of the core may be one that others took offline "
            "(now 3,7) and can bring back; bring them online first: chcpu -e 3,7; nothing was changed",
        ),
        (
            ALL_TORN,
            {"cpu_count": 1},
            "cannot place 1 CPU and 64 MiB on one node: node 0: 1 CPU short (0 available); nothing was changed\n"
            "  (no node has both to spare; CPUs 0,2,4,6 stay with the host: a hyper-thread of the core may be one that "
            "others took offline (now 1,3,5,7) and can bring back; bring them online first: chcpu -e 1,3,5,7)",
        ),
        (
            ISOLATED,
            {"cpu_count": 4},
            "cannot place 4 CPUs and 64 MiB on one node: node 0: 2 CPUs short (2 available); nothing was changed\n"
            "  (what would fit: 2 CPUs with 64 MiB on node 0; CPUs 4-7 stay with the host: isolated on the kernel's "
            "command line (isolcpus=, nohz_full=), taken only when cpu_pool names them)",
        ),
        (
            MIXED_SMT,
            {"cpu_count": 8},
            "cannot place 8 CPUs and 64 MiB on one node: node 0: 1 CPU short (7 available); nothing was changed\n"
            "  (what would fit: 7 CPUs with 64 MiB on node 0)",
        ),
        (
            ONE_NODE,
            {"cpu_count": 2, "memory_mib": 4000, "host_memory_mib": 512},
            "cannot reserve 4000 MiB of hugepages: 4096 MiB are available now and 512 MiB must stay with the host "
            "(host_memory_mib); nothing was changed\n"
            "  (at most 3584 MiB more can be reserved now; stop programs, or lower memory_mib or host_memory_mib)",
        ),
        (
            ALL_FIXED_ON_NODE_1,
            {"cpu_pool": "6-7"},
            "cpu_pool: CPU 6 must stay with the host, which keeps CPUs 0-1,4,6; "
            "wanted whole cores of 2-3; nothing was changed",
        ),
    ],
)
def test_tells_why_not(machine: Machine, keys: dict[str, Any], told: str) -> None:
    with pytest.raises(AllocatorError) as refused:
        choose(config(**keys), machine.topology(), Pool())
    assert str(refused.value) == told


def test_a_change_keeps_the_present_cores_even_if_others_would_be_chosen_now() -> None:
    topology = ONE_NODE.topology()
    present = Pool((Core((2, 3), 0),))
    assert cpu_list(choose(config(cpu_count=2), topology, present)) == "2-3"
    assert cpu_list(choose(config(cpu_count=4), topology, present)) == "2-3,6-7"


def test_a_change_stays_on_the_present_node_where_it_can() -> None:
    present = Pool((Core((6, 7), 1),))
    assert cpu_list(choose(config(cpu_count=2), GUEST_2X2X2.topology(), present)) == "6-7"
    assert cpu_list(choose(config(cpu_count=2), GUEST_2X2X2.topology(), Pool())) == "2-3"


def test_memory_follows_the_room_where_a_node_is_short_of_its_part() -> None:
    topology = replace_available(GUEST_2X2X2, {0: 4, 1: 1024})
    plan = choose(config(cpu_count=6, max_enclaves=2), topology, Pool())
    assert plan.pages == {0: 2, 1: 30}


def test_a_node_without_memory_is_taken_only_where_no_other_way_is_left() -> None:
    topology = replace_available(FOUR_NODES, {0: 4096, 1: 0, 2: 4096, 3: 4096})
    plan = choose(config(cpu_count=6, max_enclaves=4), topology, Pool())
    assert (cpu_list(plan), plan.pages) == ("2-3,8-11", {0: 10, 2: 22})
    plan = choose(config(cpu_count=14, max_enclaves=4), topology, Pool())
    assert (cpu_list(plan), plan.pages[1]) == ("2-15", 0)


def test_a_core_of_the_pool_is_whole_although_its_node_has_a_cpu_that_others_took_offline() -> None:
    topology = MIXED_SMT.topology()
    beside = replace(topology, nodes=(replace(topology.nodes[0], offline=frozenset({99})),))
    assert cpu_list(choose(config(cpu_count=1), beside, Pool((Core((7,), 0),)))) == "7"
    assert cpu_list(choose(config(cpu_count=2), beside, Pool())) == "4-5"


def replace_available(machine: Machine, available_mib: dict[int, int]) -> Topology:
    """Return a machine's topology with so much memory to be had on each node."""
    topology = machine.topology()
    nodes = tuple(replace(node, available_kib=available_mib[node.id] * 1024) for node in topology.nodes)
    return replace(topology, nodes=nodes)


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
