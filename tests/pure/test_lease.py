"""The choice of a lease, on named pools and on every small one."""

from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ali_enclaves_allocator.model.config import Config
from ali_enclaves_allocator.model.errors import AllocatorError
from ali_enclaves_allocator.model.lease import Grant, Request, grant
from ali_enclaves_allocator.model.pool import Bank, Holder, Lease, Pool
from ali_enclaves_allocator.model.refusals import (
    InsufficientCpus,
    InsufficientMemory,
    LeaseLimitReached,
    NotWholeCores,
)
from ali_enclaves_allocator.model.topology import Core

SMALL, LARGE = 2048, 1 << 20
HOLDER = Holder(pid=77, started=1, uid=1000, gid=1000, comm="qemu")


def config(max_enclaves: int = 4) -> Config:
    return Config(memory_mib=64, cpu_count=2, max_enclaves=max_enclaves)


def lease(pool: Pool, *cpus: int, bank: str = "bank0", pages: int = 8, name: str | None = "web") -> Lease:
    """Return a lease of the pool's cores with these CPUs."""
    source = next(entry for entry in pool.banks if entry.name == bank)
    cores = tuple(core for core in pool.cores if set(core.cpus) & set(cpus))
    number = f"{len(pool.leases):016x}"
    return Lease(number, name, cores, bank, source.node, source.page_kib, pages, True, HOLDER, 1.5, {}, granted=True)


def lent(pool: Pool, *cpus: int, bank: str = "bank0", pages: int = 8) -> Pool:
    return pool.with_lease(lease(pool, *cpus, bank=bank, pages=pages))


ONE_CORE = Pool((Core((2, 3), 0),), (Bank("bank0", 0, SMALL, 32),), config=config())
ONE_NODE = Pool(tuple(Core((cpu, cpu + 1), 0) for cpu in (2, 4, 6)), (Bank("bank0", 0, SMALL, 32),), config=config())
TWO_NODES = Pool(
    (Core((2, 3), 0), Core((4, 5), 0), Core((8, 9), 1), Core((10, 11), 1)),
    (Bank("bank0", 0, SMALL, 32), Bank("bank1", 1, SMALL, 16)),
    config=config(),
)
TWO_BANKS = replace(ONE_NODE, banks=(Bank("bank0", 0, SMALL, 32), Bank("bank1", 0, SMALL, 8)))
NO_SMT = Pool(tuple(Core((cpu,), 0) for cpu in (1, 2, 3)), (Bank("bank0", 0, SMALL, 32),), config=config())
UNEVEN = Pool((Core((2, 3), 0), Core((4,), 0)), (Bank("bank0", 0, SMALL, 32),), config=config())
WIDE = Pool(
    tuple(Core((cpu, cpu + 32), 0) for cpu in range(10)), (Bank("bank0", 0, SMALL, 32),), config=config(max_enclaves=9)
)
GIGANTIC = Pool((Core((2, 3), 0),), (Bank("bank0", 0, LARGE, 2),), config=config())


@pytest.mark.parametrize(
    ("pool", "request_", "got"),
    [
        pytest.param(ONE_CORE, Request(64, 2), ((2, 3), "bank0", 32), id="all of it"),
        pytest.param(ONE_CORE, Request(1, 2), ((2, 3), "bank0", 1), id="memory is rounded up to a page"),
        pytest.param(ONE_CORE, Request(17, 2), ((2, 3), "bank0", 9), id="and up only"),
        pytest.param(GIGANTIC, Request(1025, 2), ((2, 3), "bank0", 2), id="to a large page"),
        pytest.param(ONE_NODE, Request(16, 2), ((6, 7), "bank0", 8), id="the highest core first"),
        pytest.param(ONE_NODE, Request(16, 4), ((4, 5, 6, 7), "bank0", 8), id="two cores"),
        pytest.param(ONE_NODE, Request(16, cpus=(4, 5)), ((4, 5), "bank0", 8), id="by name"),
        pytest.param(ONE_NODE, Request(16, cpus=(5, 2, 4, 3)), ((2, 3, 4, 5), "bank0", 8), id="in any order"),
        pytest.param(ONE_NODE, Request(16, cpus=(4, 5, 5)), ((4, 5), "bank0", 8), id="named twice"),
        pytest.param(lent(ONE_NODE, 6), Request(48, 2), ((4, 5), "bank0", 24), id="beside a lease"),
        pytest.param(NO_SMT, Request(16, 1), ((3,), "bank0", 8), id="one thread"),
        pytest.param(UNEVEN, Request(16, 2), ((2, 3), "bank0", 8), id="an odd core is left out"),
        pytest.param(UNEVEN, Request(16, 3), ((2, 3, 4), "bank0", 8), id="or taken where it is needed"),
        pytest.param(TWO_NODES, Request(16, 2), ((10, 11), "bank1", 8), id="as many CPUs left: fewer pages left"),
        pytest.param(TWO_NODES, Request(48, 2), ((4, 5), "bank0", 24), id="where the memory is"),
        pytest.param(TWO_NODES, Request(16, 2, node=0), ((4, 5), "bank0", 8), id="on the node asked for"),
        pytest.param(lent(TWO_NODES, 2), Request(16, 2), ((4, 5), "bank0", 8), id="the node with fewest CPUs left"),
        pytest.param(TWO_BANKS, Request(16, 2), ((6, 7), "bank1", 8), id="the bank with least left"),
        pytest.param(TWO_BANKS, Request(18, 2), ((6, 7), "bank0", 9), id="the bank that has it"),
        pytest.param(lent(TWO_BANKS, 2, bank="bank1"), Request(64, 4), ((4, 5, 6, 7), "bank0", 32), id="a whole bank"),
    ],
)
def test_granted(pool: Pool, request_: Request, got: tuple[tuple[int, ...], str, int]) -> None:
    chosen = grant(request_, pool)
    cpus = tuple(sorted(cpu for core in chosen.cores for cpu in core.cpus))
    assert (cpus, chosen.bank.name, chosen.pages) == got


def fewer(free: str) -> str:
    """The hint of InsufficientCpus."""
    return (
        f"\n  (cores are lent whole, {free}; ask for fewer, or for others of the pool (see: ali-enclaves-allocator "
        "status), end an enclave, or give the pool more in allocator.yaml and reload the service)"
    )


LESS = "ask for less, end an enclave, or raise memory_mib in allocator.yaml and reload the service"


@pytest.mark.parametrize(
    ("pool", "request_", "told"),
    [
        pytest.param(
            replace(lent(ONE_NODE, 2), config=config(1)),
            Request(16, 2),
            "cannot lend: 1 of at most 1 enclaves exist (max_enclaves): web (CPUs 2-3, 16 MiB); nothing was changed\n"
            "  (end an enclave, or raise max_enclaves in allocator.yaml and reload the service)",
            id="limit",
        ),
        pytest.param(
            ONE_NODE,
            Request(16, 3),
            "cannot lend part of a core: got 3 CPUs, wanted a multiple of 2; nothing was changed\n"
            "  (cores are lent whole, free are [2-3] [4-5] [6-7])",
            id="odd",
        ),
        pytest.param(
            lent(ONE_NODE, 2, 4, 6),
            Request(16, 1),
            "cannot lend part of a core: got 1 CPU, wanted a multiple of 2; nothing was changed\n"
            "  (cores are lent whole, and none is free)",
            id="one",
        ),
        pytest.param(
            ONE_NODE,
            Request(16, cpus=(4, 6, 7)),
            "cannot lend part of a core: got CPUs 4,6-7, wanted all of CPUs 4-5: CPU 5 is missing; "
            "nothing was changed\n  (cores are lent whole, free are [2-3] [4-5] [6-7])",
            id="part of a core",
        ),
        pytest.param(
            lent(WIDE, 0),
            Request(16, cpus=(40,)),
            "cannot lend part of a core: got CPU 40, wanted all of CPUs 8,40: CPU 8 is missing; nothing was changed\n"
            "  (cores are lent whole, free are [1,33] [2,34] [3,35] [4,36] [5,37] [6,38] [7,39] [8,40] … 9 in all)",
            id="its sibling is far away",
        ),
        pytest.param(
            ONE_NODE,
            Request(16, 8),
            "cannot lend 8 CPUs: the pool has 6 CPUs (node 0: 6 free); nothing was changed"
            + fewer("free are [2-3] [4-5] [6-7]"),
            id="more than the pool has",
        ),
        pytest.param(
            TWO_NODES,
            Request(16, 6),
            "cannot lend 6 CPUs: an enclave lives on one node, and none has so many in the pool (node 0: 4 free; "
            "node 1: 4 free); nothing was changed" + fewer("free are [2-3] [4-5] [8-9] [10-11]"),
            id="more than a node has",
        ),
        pytest.param(
            lent(TWO_NODES, 2),
            Request(16, 6),
            "cannot lend 6 CPUs: an enclave lives on one node, and none has so many in the pool (node 0: 2 free; "
            "node 1: 4 free); nothing was changed" + fewer("free are [4-5] [8-9] [10-11]"),
            id="more than a node has, and not for the lease there",
        ),
        pytest.param(
            lent(ONE_NODE, 2, 4),
            Request(16, 4),
            "cannot lend 4 CPUs: held by web (CPUs 2-5, 16 MiB) (node 0: 2 free); nothing was changed"
            + fewer("free is [6-7]"),
            id="held",
        ),
        pytest.param(
            lent(lent(ONE_NODE, 2), 6),
            Request(16, cpus=(4, 5, 6, 7)),
            "cannot lend 4 CPUs: held by web (CPUs 6-7, 16 MiB) (node 0: 2 free); nothing was changed"
            + fewer("free is [4-5]"),
            id="named ones held, by whom",
        ),
        pytest.param(
            ONE_NODE,
            Request(16, cpus=(0, 1, 2, 3)),
            "cannot lend 4 CPUs: CPUs 0-1 are not in the pool, which has CPUs 2-7 (node 0: 6 free); nothing was changed"
            + fewer("free are [2-3] [4-5] [6-7]"),
            id="not in the pool",
        ),
        pytest.param(
            ONE_CORE,
            Request(16, cpus=(8,)),
            "cannot lend 1 CPU: CPU 8 is not in the pool, which has CPUs 2-3 (node 0: 2 free); nothing was changed"
            + fewer("free is [2-3]"),
            id="one that is not in the pool",
        ),
        pytest.param(
            TWO_NODES,
            Request(16, cpus=(4, 5, 8, 9)),
            "cannot lend 4 CPUs: CPUs 4-5,8-9 are not on one node (node 0: 4 free; node 1: 4 free); "
            "nothing was changed" + fewer("free are [2-3] [4-5] [8-9] [10-11]"),
            id="on two nodes",
        ),
        pytest.param(
            TWO_NODES,
            Request(16, cpus=(4, 5), node=1),
            "cannot lend 2 CPUs: CPUs 4-5 are not on node 1 (node 1: 4 free); nothing was changed"
            + fewer("free are [8-9] [10-11]"),
            id="on another node",
        ),
        pytest.param(
            ONE_NODE,
            Request(16, 2, node=7),
            "cannot lend 2 CPUs: node 7 has 0 CPUs in the pool (node 7: 0 free); nothing was changed"
            + fewer("and none is free"),
            id="no such node",
        ),
        pytest.param(
            TWO_NODES,
            Request(66, 2),
            f"cannot lend 66 MiB: node 0: 64 MiB free; node 1: 32 MiB free; nothing was changed\n  ({LESS})",
            id="memory",
        ),
        pytest.param(
            lent(lent(TWO_NODES, 8, bank="bank1"), 10, bank="bank1"),
            Request(66, 2),
            f"cannot lend 66 MiB: node 0: 64 MiB free; nothing was changed\n  ({LESS})",
            id="memory, where the CPUs are",
        ),
        pytest.param(
            lent(TWO_BANKS, 2, pages=20),
            Request(26, 2),
            f"cannot lend 26 MiB: node 0: 24 MiB free; held by web (CPUs 2-3, 40 MiB); nothing was changed\n  ({LESS})",
            id="memory in one piece",
        ),
    ],
)
def test_refused(pool: Pool, request_: Request, told: str) -> None:
    with pytest.raises(AllocatorError) as refused:
        grant(request_, pool)
    assert str(refused.value) == told


@st.composite
def pools(draw: st.DrawFn) -> Pool:
    """Pools of a few cores and banks on up to three nodes, some of it lent."""
    first, cores = 2, []
    for node in draw(st.lists(st.integers(0, 2), min_size=1, max_size=5)):
        width = draw(st.sampled_from([1, 2, 2, 2]))
        cores.append(Core(tuple(range(first, first + width)), node))
        first += width
    banks = tuple(
        Bank(f"bank{number}", node, SMALL, pages)
        for number, (node, pages) in enumerate(
            draw(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 12)), min_size=1, max_size=3))
        )
    )
    pool = Pool(tuple(cores), banks, config=config(max_enclaves=draw(st.integers(1, 6))))
    for number, core in enumerate(cores):
        bank = next((bank for bank in banks if bank.node == core.node and pool.free_pages(bank)), None)
        if bank and draw(st.booleans()):
            pages = draw(st.integers(1, pool.free_pages(bank)))
            pool = pool.with_lease(replace(lease(pool, *core.cpus, bank=bank.name, pages=pages), id=f"{number:016x}"))
    return pool


@st.composite
def requests(draw: st.DrawFn) -> Request:
    cpus = draw(st.none() | st.lists(st.integers(1, 11), min_size=1, max_size=5).map(tuple))
    return Request(
        memory_mib=draw(st.integers(1, 26)),
        cpu_count=None if cpus else draw(st.integers(1, 8)),
        cpus=cpus,
        node=draw(st.none() | st.none() | st.integers(0, 3)),
    )


def possible(request: Request, pool: Pool) -> list[Grant]:
    """Return everything that rules 2 and 3 allow, found by trying all."""
    free = [core for core in pool.cores if core not in pool.leased_cores]
    found = []
    for size in range(1, len(free) + 1):
        for cores in combinations(free, size):
            nodes = {core.node for core in cores}
            cpus = {cpu for core in cores for cpu in core.cpus}
            right = cpus == set(request.cpus) if request.cpus else len(cpus) == request.cpu_count
            if right and len(nodes) == 1 and request.node in (None, *nodes):
                found += [
                    Grant(cores, bank, pages)
                    for bank in pool.banks
                    if bank.node in nodes and (pages := -(-request.memory_mib // 2)) <= pool.free_pages(bank)
                ]
    return found


def left_over(chosen: Grant, pool: Pool) -> tuple[int, int, int]:
    """Return what rule 4 compares."""
    node = chosen.bank.node
    free = sum(len(core.cpus) for core in pool.cores if core.node == node and core not in pool.leased_cores)
    taken = sum(len(core.cpus) for core in chosen.cores)
    return free - taken, pool.free_pages(chosen.bank) - chosen.pages, node


@settings(max_examples=400)
@given(pools(), requests())
def test_every_small_pool(pool: Pool, request_: Request) -> None:
    able = possible(request_, pool)
    try:
        chosen = grant(request_, pool)
    except LeaseLimitReached:
        assert len(pool.leases) >= (pool.config.max_enclaves if pool.config else 0)
        return
    except (InsufficientCpus, InsufficientMemory, NotWholeCores) as refused:
        assert not able
        assert str(refused)
        return
    assert len(pool.leases) < (pool.config.max_enclaves if pool.config else 0)
    assert not set(chosen.cores) & pool.leased_cores, "no core is lent twice"
    assert {core.node for core in chosen.cores} == {chosen.bank.node}, "one node"
    assert any(set(chosen.cores) == set(other.cores) for other in able), "whole cores, as many as asked"
    assert chosen.pages <= pool.free_pages(chosen.bank)
    assert left_over(chosen, pool) == min(left_over(other, pool) for other in able), "the least left over"
    assert grant(request_, pool) == chosen, "deterministic"


@settings(max_examples=100)
@given(pools(), st.lists(requests(), max_size=6))
def test_leases_never_overlap(pool: Pool, asked: list[Request]) -> None:
    pool = replace(pool, config=config(max_enclaves=20))
    for number, request in enumerate(asked):
        try:
            chosen = grant(request, pool)
        except AllocatorError:
            continue
        taken = lease(pool, bank=chosen.bank.name, pages=chosen.pages)
        pool = pool.with_lease(replace(taken, id=f"a{number:015x}", cores=chosen.cores))
        held = [core for entry in pool.leases for core in entry.cores]
        assert len(held) == len(set(held))
        assert all(pool.free_pages(bank) >= 0 for bank in pool.banks)
