"""The difference between the pool that stands and the plan: what must change, in order, and no more."""

import pytest

from ali_enclaves_allocator.change.difference import Change, difference
from ali_enclaves_allocator.change.steps import AddPages
from ali_enclaves_allocator.model.plan import Plan
from ali_enclaves_allocator.model.pool import Bank, Pool, Share, Sight
from ali_enclaves_allocator.model.topology import Core, PageCounts

SMALL, LARGE = 2048, 1 << 20
CORE_2, CORE_6 = Core((2, 3), 0), Core((6, 7), 1)
NO_PLAN = Plan((), 0, {})

POOL = Pool((CORE_2,), (Bank("bank0", 0, SMALL, 32),), (Share(0, SMALL, 32, absorbed=2),))


def sight(
    offline: tuple[int, ...] = (2, 3), pages: PageCounts | None = None, held: dict[str, int] | None = None
) -> Sight:
    """Return a machine of 8 CPUs and 2 nodes on which POOL stands, or what is said instead."""
    nothing = PageCounts(0, 0, 0)
    counts = {(0, SMALL): pages or PageCounts(37, 0, 0), (1, SMALL): nothing, (0, LARGE): nothing, (1, LARGE): nothing}
    return Sight(frozenset(range(8)) - set(offline), counts, {"bank0": 32} if held is None else held)


def told(change: Change) -> tuple[list[str], list[str]]:
    """Return what is taken and what is given back, in words."""
    return [step.describe() for step in change.take], [step.describe() for step in change.give]


def plan(*cores: Core, page_kib: int = SMALL, **pages: int) -> Plan:
    """Return a plan; `node0=32` are pages of node 0."""
    return Plan(cores, page_kib, {int(node.removeprefix("node")): count for node, count in pages.items()})


@pytest.mark.parametrize(
    ("pool", "shown", "wanted", "take", "give"),
    [
        pytest.param(POOL, sight(), plan(CORE_2, node0=32), [], [], id="no change"),
        pytest.param(Pool(), sight((), held={}), NO_PLAN, [], [], id="nothing to nothing"),
        pytest.param(
            Pool(),
            sight((), held={}),
            plan(CORE_2, CORE_6, node0=3, node1=4),
            [
                "reserve 3×2M pages on node 0",
                "reserve 4×2M pages on node 1",
                "hold 3×2M on node 0 in bank0",
                "hold 4×2M on node 1 in bank1",
                "take CPU 2 offline",
                "take CPU 3 offline",
                "take CPU 6 offline",
                "take CPU 7 offline",
            ],
            [],
            id="first",
        ),
        pytest.param(
            POOL,
            sight(),
            plan(CORE_2, node0=40),
            ["reserve 8×2M pages on node 0", "drop 32×2M on node 0 in bank0", "hold 40×2M on node 0 in bank1"],
            [],
            id="more memory is one larger bank",
        ),
        pytest.param(
            POOL,
            sight(),
            plan(CORE_2, node0=24),
            ["drop 32×2M on node 0 in bank0", "hold 24×2M on node 0 in bank1"],
            ["give back 8×2M pages on node 0"],
            id="less memory reuses the pages of the bank",
        ),
        pytest.param(
            POOL,
            sight(pages=PageCounts(39, 0, 2)),
            plan(CORE_2, node0=24),
            [
                "make surplus 2M pages on node 0 persistent",
                "drop 32×2M on node 0 in bank0",
                "hold 24×2M on node 0 in bank1",
            ],
            ["give back 8×2M pages on node 0"],
            id="less memory beside surplus pages, which are made persistent first",
        ),
        pytest.param(
            POOL,
            sight(),
            plan(CORE_6, node1=32),
            [
                "reserve 32×2M pages on node 1",
                "hold 32×2M on node 1 in bank1",
                "take CPU 6 offline",
                "take CPU 7 offline",
            ],
            [
                "take CPU 2 online",
                "take CPU 3 online",
                "give back 32×2M pages on node 0",
                "drop 32×2M on node 0 in bank0",
            ],
            id="to another node",
        ),
        pytest.param(
            POOL,
            sight(),
            plan(CORE_2, page_kib=LARGE, node0=1),
            ["reserve 1×1G pages on node 0", "hold 1×1G on node 0 in bank1"],
            ["give back 32×2M pages on node 0", "drop 32×2M on node 0 in bank0"],
            id="to another page size",
        ),
        pytest.param(
            POOL,
            sight(),
            NO_PLAN,
            [],
            [
                "take CPU 2 online",
                "take CPU 3 online",
                "give back 32×2M pages on node 0",
                "drop 32×2M on node 0 in bank0",
            ],
            id="give back",
        ),
        pytest.param(
            POOL,
            sight(offline=(2,)),
            NO_PLAN,
            [],
            ["take CPU 2 online", "give back 32×2M pages on node 0", "drop 32×2M on node 0 in bank0"],
            id="give back what is half online already",
        ),
        pytest.param(
            POOL, sight(offline=(3,)), plan(CORE_2, node0=32), ["take CPU 2 offline"], [], id="CPU online by hand"
        ),
        pytest.param(
            POOL,
            sight(pages=PageCounts(37, 32, 0), held={}),
            plan(CORE_2, node0=32),
            ["hold 32×2M on node 0 in bank1"],
            [],
            id="bank unmounted, its pages still there",
        ),
        pytest.param(
            POOL,
            sight(pages=PageCounts(5, 3, 0), held={}),
            plan(CORE_2, node0=32),
            ["reserve 32×2M pages on node 0", "hold 32×2M on node 0 in bank1"],
            [],
            id="bank unmounted, its pages gone, idle ones of others not ours",
        ),
        pytest.param(
            POOL,
            sight(pages=PageCounts(37, 12, 0), held={"bank0": 20}),
            plan(CORE_2, node0=32),
            ["drop 32×2M on node 0 in bank0", "hold 32×2M on node 0 in bank1"],
            [],
            id="bank short, its pages still there",
        ),
        pytest.param(
            POOL,
            sight(pages=PageCounts(25, 0, 0), held={"bank0": 20}),
            plan(CORE_2, node0=32),
            ["reserve 12×2M pages on node 0", "drop 32×2M on node 0 in bank0", "hold 32×2M on node 0 in bank1"],
            [],
            id="bank short, its pages gone",
        ),
        pytest.param(
            POOL,
            sight(pages=PageCounts(37, 32, 0), held={}),
            NO_PLAN,
            [],
            ["take CPU 2 online", "take CPU 3 online", "give back 32×2M pages on node 0"],
            id="give back where the bank is unmounted",
        ),
    ],
)
def test_steps(pool: Pool, shown: Sight, wanted: Plan, take: list[str], give: list[str]) -> None:
    assert told(difference(pool, shown, wanted, None)) == (take, give)


def test_the_pool_that_will_stand() -> None:
    change = difference(POOL, sight(), plan(CORE_2, CORE_6, node0=40, node1=5), None)
    assert change.pool == Pool(
        cores=(CORE_2, CORE_6),
        banks=(Bank("bank1", 0, SMALL, 40), Bank("bank2", 1, SMALL, 5)),
        shares=(Share(0, SMALL, 40, absorbed=2), Share(1, SMALL, 5)),
    )


def test_no_change_is_the_same_pool() -> None:
    assert difference(POOL, sight(), plan(CORE_2, node0=32), None).pool == POOL


def test_nothing_wanted_is_no_pool() -> None:
    assert difference(POOL, sight(), NO_PLAN, None).pool == Pool()


def several_banks() -> tuple[Pool, Sight]:
    pool = Pool(
        (CORE_2,),
        (Bank("bank0", 0, SMALL, 32), Bank("bank1", 0, SMALL, 16), Bank("bank2", 0, SMALL, 8)),
        (Share(0, SMALL, 56),),
    )
    return pool, sight(pages=PageCounts(56, 0, 0), held={"bank0": 32, "bank1": 16, "bank2": 8})


def test_of_several_banks_the_one_that_fits_is_kept() -> None:
    pool, shown = several_banks()
    change = difference(pool, shown, plan(CORE_2, node0=16), None)
    assert told(change) == (
        [],
        ["give back 40×2M pages on node 0", "drop 32×2M on node 0 in bank0", "drop 8×2M on node 0 in bank2"],
    )
    assert change.pool.banks == (Bank("bank1", 0, SMALL, 16),)


def test_several_banks_become_one_so_that_one_lease_can_have_all() -> None:
    pool, shown = several_banks()
    change = difference(pool, shown, plan(CORE_2, node0=56), None)
    drops = [f"drop {pages}×2M on node 0 in bank{number}" for number, pages in enumerate((32, 16, 8))]
    assert told(change) == ([*drops, "hold 56×2M on node 0 in bank3"], [])
    assert change.pool.banks == (Bank("bank3", 0, SMALL, 56),)


def test_surplus_pages_of_others_are_given_back_with_the_last_page() -> None:
    last, some = (difference(POOL, sight(), its, None).give for its in (NO_PLAN, plan(CORE_2, node0=24)))
    assert [[step.absorbed for step in give if isinstance(step, AddPages)] for give in (last, some)] == [[2], [0]]


def test_a_bank_gets_a_name_that_none_of_the_pool_has() -> None:
    pool = Pool((CORE_2,), (Bank("bank1", 0, SMALL, 32),), (Share(0, SMALL, 32),))
    change = difference(pool, sight(held={"bank1": 32}), plan(CORE_2, node0=40, node1=3), None)
    assert [bank.name for bank in change.pool.banks] == ["bank0", "bank2"]
