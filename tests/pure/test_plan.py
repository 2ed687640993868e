"""The choice, on named machines."""

from dataclasses import replace
from typing import Any

import pytest

from ali_enclaves_allocator.model import cpus
from ali_enclaves_allocator.model.errors import AllocatorError
from ali_enclaves_allocator.model.plan import Plan, choose
from ali_enclaves_allocator.model.pool import Pool
from ali_enclaves_allocator.model.topology import Core, Topology
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
)
from tests.pure.plans import config


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
