"""The pool as a value: its words, its sums, and the drift between it and what the kernel shows."""

import pytest

from ali_enclaves_allocator.model.pool import Bank, Pool, Share, Sight, drift
from ali_enclaves_allocator.model.topology import Core, PageCounts

POOL = Pool(
    cores=(Core((2, 3), 0), Core((6, 7), 1)),
    banks=(Bank("bank0", 0, 2048, 32), Bank("bank1", 0, 2048, 8), Bank("bank2", 1, 1 << 20, 2)),
    shares=(Share(0, 2048, 40, absorbed=3), Share(1, 1 << 20, 2)),
)

AS_WANTED = Sight(
    online=frozenset({0, 1, 4, 5}),
    pages={(0, 2048): PageCounts(total=45, free=2, surplus=1), (1, 1 << 20): PageCounts(total=2, free=0, surplus=0)},
    held={"bank0": 32, "bank1": 8, "bank2": 2},
)


def seen(**changes: object) -> Sight:
    """Return what the kernel shows when only this is otherwise."""
    return Sight(**(vars(AS_WANTED) | changes))


def test_sums() -> None:
    assert POOL.cpus == {2, 3, 6, 7}
    assert POOL.memory_mib == 80 + 2048
    assert POOL.nodes == (0, 1)
    assert (POOL.pages(0, 2048), POOL.pages(1, 2048), POOL.pages(1, 1 << 20)) == (40, 0, 2)
    assert POOL.share(0, 2048) == Share(0, 2048, 40, absorbed=3)
    assert POOL.share(1, 2048) == Share(1, 2048, 0), "where it has none, an empty one"


@pytest.mark.parametrize(
    ("pool", "told"),
    [
        (Pool(), "empty"),
        (
            Pool((Core((2, 3), 0),), (Bank("bank0", 0, 2048, 512),), (Share(0, 2048, 512),)),
            "CPUs 2-3 (1 core) on node 0, 1024 MiB in 512×2M",
        ),
        (POOL, "CPUs 2-3,6-7 (2 cores) on nodes 0-1, 2128 MiB in 40×2M + 2×1G"),
    ],
)
def test_describes_itself(pool: Pool, told: str) -> None:
    assert pool.describe() == told


def test_no_drift_while_the_kernel_shows_what_is_needed() -> None:
    assert drift(POOL, AS_WANTED) == ()
    assert drift(Pool(), AS_WANTED) == ()


@pytest.mark.parametrize(
    ("sight", "told"),
    [
        (seen(online=frozenset(range(8))), "CPUs 2-3,6-7: online: the host runs on them, wanted offline"),
        (seen(online=frozenset({0, 7})), "CPU 7: online: the host runs on them, wanted offline"),
        (seen(held={"bank0": 32, "bank1": 8}), "bank bank2: not mounted, wanted 2 pages held"),
        (seen(held={"bank0": 31, "bank1": 8, "bank2": 2}), "bank bank0: 31 pages held, wanted 32 pages held"),
        (
            seen(pages={(0, 2048): PageCounts(total=45, free=0, surplus=6)}),
            "nr_hugepages of node 0 (2M): 39 without surplus, wanted at least 40",
        ),
    ],
)
def test_each_drift_is_told(sight: Sight, told: str) -> None:
    assert [str(entry) for entry in drift(POOL, sight)] == [told]


def test_all_drift_is_told_at_once() -> None:
    lost = Sight(frozenset(range(8)), {key: PageCounts(0, 0, 0) for key in AS_WANTED.pages})
    assert [entry.what for entry in drift(POOL, lost)] == [
        "CPUs 2-3,6-7",
        "bank bank0",
        "bank bank1",
        "bank bank2",
        "nr_hugepages of node 0 (2M)",
        "nr_hugepages of node 1 (1G)",
    ]


def test_what_others_add_is_no_drift() -> None:
    more = {key: PageCounts(counts.total + 9, 9, counts.surplus) for key, counts in AS_WANTED.pages.items()}
    assert drift(POOL, seen(pages=more, held={**AS_WANTED.held, "bank9": 4})) == ()
