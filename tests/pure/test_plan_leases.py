"""The choice of the pool and the difference to it, around leases: what they hold stays, or the file is refused."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ali_enclaves_allocator.change.difference import difference
from ali_enclaves_allocator.model.errors import AllocatorError, LeaseInTheWay
from ali_enclaves_allocator.model.placement import NoNodeFits
from ali_enclaves_allocator.model.plan import Plan, choose
from ali_enclaves_allocator.model.pool import Bank, Holder, Lease, Pool, Share, Sight
from ali_enclaves_allocator.model.topology import Core, PageCounts
from tests.machines import BOOTABLE, GUEST_2X2X2, ONE_NODE, Machine
from tests.pure.exhaustive import best_nodes
from tests.pure.plans import config, pool_of

SMALL, LARGE = 2048, 1 << 20


def standing(machine: Machine, **keys: Any) -> Pool:
    """Return the pool that a configuration makes of an empty machine."""
    asked = config(**keys)
    return pool_of(choose(asked, machine.topology(), Pool()), asked)


def lent(pool: Pool, *cpus: int, pages: int = 8, name: str = "web", online: bool = True) -> Pool:
    """Return the pool with a lease of the cores of these CPUs."""
    cores = tuple(core for core in pool.cores if set(core.cpus) & set(cpus))
    bank = next(bank for bank in pool.banks if bank.node == cores[0].node)
    holder = Holder(77, 1, 0, 0, "qemu")
    number = f"{len(pool.leases):016x}"
    return pool.with_lease(
        Lease(number, name, cores, bank.name, bank.node, bank.page_kib, pages, online, holder, 1.5, {}, granted=True)
    )


LOW = lent(standing(ONE_NODE, cpu_pool="2-5"), 2)
"""4 CPUs in the pool of which the lower core, the last to be chosen, is lent."""


@pytest.mark.parametrize(
    ("machine", "present", "keys", "wanted_cpus", "pages"),
    [
        (ONE_NODE, LOW, {"cpu_count": 2}, {2, 3}, {0: 32}),
        (ONE_NODE, LOW, {"cpu_count": 4}, {2, 3, 4, 5}, {0: 32}),
        (ONE_NODE, LOW, {"cpu_count": 6, "memory_mib": 96}, {2, 3, 4, 5, 6, 7}, {0: 48}),
        (ONE_NODE, LOW, {"cpu_pool": "2-3,6-7"}, {2, 3, 6, 7}, {0: 32}),
        (ONE_NODE, LOW, {"cpu_count": 2, "max_enclaves": 3}, {2, 3}, {0: 32}),
        (
            GUEST_2X2X2,
            lent(standing(GUEST_2X2X2, cpu_count=2), 2),
            {"cpu_pool": "2-7", "max_enclaves": 2},
            set(range(2, 8)),
            {0: 32, 1: 0},
        ),
        (
            GUEST_2X2X2,
            lent(standing(GUEST_2X2X2, cpu_count=2), 2),
            {"cpu_count": 6, "max_enclaves": 2, "memory_mib": 70},
            set(range(2, 8)),
            {0: 32, 1: 3},
        ),
    ],
)
def test_leases_stay(
    machine: Machine, present: Pool, keys: dict[str, Any], wanted_cpus: set[int], pages: dict[int, int]
) -> None:
    plan = choose(config(**keys), machine.topology(), present)
    assert {cpu for core in plan.cores for cpu in core.cpus} == wanted_cpus
    assert dict(plan.pages) == pages


TWO_LEASES = lent(LOW, 4, name="db")


@pytest.mark.parametrize(
    ("machine", "present", "keys", "named"),
    [
        (ONE_NODE, LOW, {"cpu_pool": "4-7"}, ["web (CPUs 2-3, 16 MiB)"]),
        (ONE_NODE, LOW, {"cpu_count": 2, "memory_mib": 62}, ["web (CPUs 2-3, 16 MiB)"]),
        (ONE_NODE, LOW, {"cpu_count": 2, "hugepage_size": "1G"}, ["web (CPUs 2-3, 16 MiB)"]),
        (ONE_NODE, TWO_LEASES, {"cpu_pool": "4-7"}, ["web (CPUs 2-3, 16 MiB)"]),
        (ONE_NODE, TWO_LEASES, {"cpu_pool": "2-3,6-7"}, ["db (CPUs 4-5, 16 MiB)"]),
        (ONE_NODE, TWO_LEASES, {"cpu_pool": "6-7"}, ["web (CPUs 2-3, 16 MiB)", "db (CPUs 4-5, 16 MiB)"]),
        (GUEST_2X2X2, lent(standing(GUEST_2X2X2, cpu_count=2), 2), {"cpu_count": 4}, ["web (CPUs 2-3, 16 MiB)"]),
    ],
)
def test_what_would_cut_a_lease_names_it(
    machine: Machine, present: Pool, keys: dict[str, Any], named: list[str]
) -> None:
    with pytest.raises(LeaseInTheWay) as refused:
        choose(config(**keys), machine.topology(), present)
    assert refused.value.leases == named


def test_what_fits_nowhere_is_no_leases_fault() -> None:
    with pytest.raises(NoNodeFits):
        choose(config(cpu_count=8, memory_mib=1 << 20), ONE_NODE.topology(), LOW)


@settings(max_examples=150)
@given(st.data())
def test_every_machine_around_a_lease(data: st.DataObject) -> None:
    machine = BOOTABLE[data.draw(st.sampled_from(sorted(set(BOOTABLE) - {"huge"})))]

    def keys() -> dict[str, Any]:
        asked = {"cpu_count": data.draw(st.integers(1, 12)), "max_enclaves": data.draw(st.integers(1, 3))}
        return asked | {"memory_mib": data.draw(st.integers(1, 200))}

    try:
        present = standing(machine, **keys())
    except AllocatorError:
        return
    bank = data.draw(st.sampled_from(present.banks))
    core = data.draw(st.sampled_from([core for core in present.cores if core.node == bank.node]))
    present = lent(present, core.cpus[0], pages=data.draw(st.integers(1, bank.pages)))
    asked = config(**keys())
    try:
        plan = choose(asked, machine.topology(), present)
    except LeaseInTheWay:
        assert best_nodes(asked, machine.topology(), present) is None
        choose(asked, machine.topology(), replace(present, leases=()))
        return
    except AllocatorError as refused:
        with pytest.raises(type(refused)):
            choose(asked, machine.topology(), replace(present, leases=()))
        return
    assert tuple(sorted(plan.pages)) == best_nodes(asked, machine.topology(), present)
    assert present.leased_cores <= set(plan.cores)
    assert all(plan.pages[leased.node] >= leased.pages for leased in present.leased_banks)
    assert sum(plan.pages.values()) == -(-asked.memory_mib // 2)
    assert choose(asked, machine.topology(), replace(present, cores=plan.cores)).cores == plan.cores


# The difference


CORE_2, CORE_6 = Core((2, 3), 0), Core((6, 7), 0)
LEASED = lent(Pool((CORE_2,), (Bank("bank0", 0, SMALL, 32),), (Share(0, SMALL, 32),)), 2)


def sight(pages: int, offline: tuple[int, ...] = (), free: int = 0, **held: int) -> Sight:
    return Sight(frozenset(range(8)) - set(offline), {(0, SMALL): PageCounts(pages, free, 0)}, held)


@pytest.mark.parametrize(
    ("pool", "shown", "wanted", "take", "give", "banks"),
    [
        pytest.param(LEASED, sight(32, bank0=32), Plan((CORE_2,), SMALL, {0: 32}), [], [], [32], id="no change"),
        pytest.param(
            lent(replace(LEASED, leases=()), 2, online=False),
            sight(32, bank0=32),
            Plan((CORE_2,), SMALL, {0: 32}),
            ["take CPU 2 offline", "take CPU 3 offline"],
            [],
            [32],
            id="only CPUs lent online are online",
        ),
        pytest.param(
            LEASED,
            sight(32, bank0=32),
            Plan((CORE_2, CORE_6), SMALL, {0: 48}),
            [
                "reserve 16×2M pages on node 0",
                "hold 16×2M on node 0 in bank1",
                "take CPU 6 offline",
                "take CPU 7 offline",
            ],
            [],
            [32, 16],
            id="grow",
        ),
        pytest.param(
            replace(
                LEASED,
                cores=(CORE_2, CORE_6),
                banks=(*LEASED.banks, Bank("bank1", 0, SMALL, 16)),
                shares=(Share(0, SMALL, 48),),
            ),
            sight(48, offline=(6, 7), bank0=32, bank1=16),
            Plan((CORE_2,), SMALL, {0: 32}),
            [],
            [
                "take CPU 6 online",
                "take CPU 7 online",
                "give back 16×2M pages on node 0",
                "drop 16×2M on node 0 in bank1",
            ],
            [32],
            id="give back all but the lease",
        ),
        pytest.param(
            replace(LEASED, banks=(*LEASED.banks, Bank("bank1", 0, SMALL, 16)), shares=(Share(0, SMALL, 48),)),
            sight(48, bank0=32, bank1=16),
            Plan((CORE_2,), SMALL, {0: 56}),
            ["reserve 8×2M pages on node 0", "drop 16×2M on node 0 in bank1", "hold 24×2M on node 0 in bank2"],
            [],
            [32, 24],
            id="what is not leased is one bank",
        ),
        pytest.param(
            LEASED, sight(32, free=2, bank0=30), Plan((CORE_2,), SMALL, {0: 32}), [], [], [32], id="leased and short"
        ),
        pytest.param(LEASED, sight(32), Plan((CORE_2,), SMALL, {0: 32}), [], [], [32], id="leased and not mounted"),
    ],
)
def test_steps(pool: Pool, shown: Sight, wanted: Plan, take: list[str], give: list[str], banks: list[int]) -> None:
    change = difference(pool, shown, wanted, None)
    assert [step.describe() for step in change.take] == take
    assert [step.describe() for step in change.give] == give
    assert [bank.pages for bank in change.pool.banks] == banks
    assert change.pool.leases == pool.leases
