"""Other programs own pages too, and move them while the pool stands: theirs is what they made of it themselves.

The measure is the same machine without the allocator, on which they did the same.
"""

import errno
from collections.abc import Callable

import pytest

from ali_enclaves_allocator.model.errors import CpuRefused, KernelRefused, PagesTaken
from ali_enclaves_allocator.model.pool import drift
from ali_enclaves_allocator.model.topology import PageCounts
from tests.conftest import Boot
from tests.machines import GUEST_2X2X2, ONE_NODE
from tests.sim.effects import Died
from tests.sim.host import Host
from tests.sim.kernel import Simulation
from tests.sim.scenarios import LARGE, SMALL

Deed = Callable[[Simulation], object]


def take_and_free(simulation: Simulation) -> None:
    simulation.use(0, 6)
    simulation.release(0, 5)


DEEDS: dict[str, Deed] = {
    "raise the number": lambda sim: sim.set_by_hand(0, sim.counts(0).persistent + 7),
    "lower the number by their idle pages": lambda sim: sim.set_by_hand(0, sim.counts(0).persistent - 4),
    "take idle pages": lambda sim: sim.use(0, 3),
    "free pages": lambda sim: sim.release(0, 4),
    "take surplus pages": lambda sim: sim.use(0, 6),
    "take surplus pages and free some": take_and_free,
    "forbid surplus pages": lambda sim: setattr(sim.pages[2048], "overcommit", 0),
}


def neighbours(boot: Boot) -> Host:
    """Return a host on whose node 0 others have 6 pages in use and 4 idle, and may have 3 surplus pages."""
    host = boot(ONE_NODE)
    host.simulation.set_by_hand(0, 10)
    host.simulation.use(0, 6)
    host.simulation.pages[2048].overcommit = 3
    host.settle()
    return host


@pytest.mark.parametrize("then", [SMALL, LARGE, {"memory_mib": 20, "cpu_count": 2}], ids=["same", "grow", "shrink"])
@pytest.mark.parametrize("deed", DEEDS.values(), ids=DEEDS)
def test_what_others_do_meanwhile_is_theirs(deed: Deed, then: dict[str, int], boot: Boot) -> None:
    host, alone = neighbours(boot), neighbours(boot)
    host.configure(**SMALL)
    host.start()
    deed(host.simulation)
    deed(alone.simulation)
    host.configure(**then)
    host.start()
    assert drift(host.record.pool, host.simulation.kernel.sight(host.record.pool)) == ()
    host.give_back()
    assert host.state == alone.state


@pytest.mark.parametrize("name", [name for name in DEEDS if not name.startswith("lower")])
def test_what_others_do_while_no_allocator_runs_is_theirs(name: str, boot: Boot) -> None:
    """The allocator is dead, its CPUs still online.

    Not among them: a number lowered then. It cannot be told from a short grant, and its pages stay with the host.
    """
    host, alone = neighbours(boot), neighbours(boot)
    host.configure(**SMALL)
    host.effects.die_before("write 0")
    with pytest.raises(Died):
        host.start()
    DEEDS[name](host.simulation)
    DEEDS[name](alone.simulation)
    host.give_back()
    assert host.state == alone.state


def test_surplus_pages_turned_persistent_are_surplus_again(boot: Boot) -> None:
    host = neighbours(boot)
    host.simulation.use(0, 6)
    host.settle()
    assert host.simulation.counts(0).surplus == 2
    host.configure(**SMALL)
    host.start()
    assert host.simulation.counts(0).surplus == 0
    host.configure(**LARGE)
    host.start()
    host.assert_pool_stands()
    host.give_back()
    host.assert_untouched()


def test_surplus_pages_made_between_two_raises_are_surplus_again(boot: Boot) -> None:
    host, alone = neighbours(boot), neighbours(boot)
    host.configure(**SMALL)
    host.start()
    for simulation in (host.simulation, alone.simulation):
        simulation.use(0, 6)
    host.configure(**LARGE)
    host.start()
    host.give_back()
    assert host.state == alone.state


@pytest.mark.parametrize(
    ("number", "left"),
    [(0, PageCounts(6, 0, 6)), (2, PageCounts(6, 0, 4)), (20, PageCounts(6, 0, 0)), (33, PageCounts(6, 0, 5))],
)
def test_a_number_lowered_below_ours_leaves_others_what_they_use(number: int, left: PageCounts, boot: Boot) -> None:
    """As the allocator of another cloud does at its start, with 0."""
    host = neighbours(boot)
    host.configure(**SMALL)
    host.start()
    host.simulation.set_by_hand(0, number)
    assert host.simulation.counts(0).total == 38, "6 pages of theirs and 32 of ours are in use"
    host.give_back()
    assert host.simulation.counts(0) == left


def test_a_number_lowered_below_ours_is_made_good_by_a_smaller_pool(boot: Boot) -> None:
    host = neighbours(boot)
    host.configure(**SMALL | {"memory_mib": 80})
    host.start()
    host.simulation.set_by_hand(0, 20)
    host.configure(**SMALL)
    host.start()
    assert host.simulation.counts(0) == PageCounts(total=38, free=0, surplus=0), "32 of ours, 6 that others use"
    host.give_back()
    assert host.simulation.counts(0).persistent == 0, "the 6 are surplus, as the hand made them"


def test_an_undo_that_dies_takes_nothing_when_it_is_repeated(boot: Boot) -> None:
    """What is subtracted is decided once: a second time it would be theirs."""
    host, alone = neighbours(boot), neighbours(boot)
    host.configure(**SMALL)

    def somebody_else() -> None:
        for each in (host, alone):
            each.simulation.set_by_hand(0, each.simulation.counts(0).persistent + 7)

    host.effects.after("hold", somebody_else)
    host.effects.after("mount", lambda: host.effects.die_before("ledger idle"))
    host.effects.fail("write 0", errno.EBUSY)
    with pytest.raises(Died):
        host.start()
    host.give_back()
    assert host.state == alone.state


def thief(host: Host, taken: int) -> Callable[[], None]:
    """Return a program that takes pages of node 0 when it is run."""

    def take() -> None:
        host.simulation.use(0, taken)

    return take


@pytest.mark.parametrize("taken", [1, 4, 32])
def test_a_thief_before_the_mount_gets_its_pages_and_we_none(taken: int, boot: Boot) -> None:
    host = neighbours(boot)
    host.simulation.use(0, 4)
    host.simulation.pages[2048].overcommit = 0
    host.settle()
    host.configure(**SMALL)
    host.effects.after("write 42", thief(host, taken))
    with pytest.raises(PagesTaken) as refused:
        host.start()
    assert str(refused.value) == (
        f"cannot hold the pool's pages: got {32 - taken} of 32 2M pages on node 0; all changes undone\n"
        "  (other programs took hugepages at the same moment; try again)"
    )
    assert host.simulation.counts(0).in_use == 10 + taken
    host.simulation.release(0, taken)
    host.assert_untouched()


def test_a_thief_in_the_moment_of_the_mount(boot: Boot) -> None:
    host = neighbours(boot)
    host.simulation.pages[2048].overcommit = 0
    host.configure(**SMALL)
    host.effects.before("mount", thief(host, 5))
    with pytest.raises(KernelRefused) as refused:
        host.start()
    assert str(refused.value) == (
        "cannot hold 32×2M on node 0 in bank0: systemd: the job of bank0.mount ended so: failed; all changes undone"
    )
    host.simulation.release(0, 5)
    host.assert_untouched()


def test_a_thief_after_the_fill_gets_nothing(boot: Boot) -> None:
    host = neighbours(boot)
    host.simulation.pages[2048].overcommit = 0
    host.configure(**SMALL)
    host.start()
    assert host.simulation.use(0, 1000) == 4, "their own idle pages"


def test_a_thief_on_another_node_makes_the_bank_take_surplus_pages(boot: Boot) -> None:
    """Reserved is a count on any node; with overcommit the kernel makes the missing pages, on the right node."""
    host, alone = boot(GUEST_2X2X2), boot(GUEST_2X2X2)
    for each in (host, alone):
        each.simulation.set_by_hand(1, 3)
        each.simulation.pages[2048].overcommit = 3
    host.configure(**SMALL)
    host.effects.after("mount", thief(host, 3))
    alone.simulation.use(0, 3)
    host.start()
    assert host.state.mounted == {"bank0": {"hold": (0,) * 32}}
    host.give_back()
    assert host.state == alone.state


def test_the_drift_of_a_bank_unmounted_by_hand_is_repaired(boot: Boot) -> None:
    host = neighbours(boot)
    host.configure(**SMALL)
    host.start()
    host.simulation.mounts.pop("bank0").close()
    host.start()
    host.assert_pool_stands()


def test_the_drift_of_everything_is_repaired(boot: Boot) -> None:
    host = neighbours(boot)
    host.configure(**SMALL)
    host.start()
    host.simulation.mounts.pop("bank0").close()
    host.simulation.set_by_hand(0, 10)
    host.simulation.set_online(max(host.record.pool.cpus), True)
    host.start()
    host.assert_pool_stands()
    host.give_back()
    host.assert_untouched()


def test_a_cpu_brought_online_by_hand_goes_offline_again(boot: Boot) -> None:
    host = neighbours(boot)
    host.configure(**SMALL)
    host.start()
    cpu = max(host.record.pool.cpus)
    host.simulation.set_online(cpu, True)
    host.start()
    host.assert_pool_stands()
    assert host.done == ["ledger taking", f"write 0 to devices/system/cpu/cpu{cpu}/online", "ledger idle"]


@pytest.mark.parametrize("number", [0, 10, 20])
def test_the_drift_of_a_number_lowered_by_hand_is_repaired(number: int, boot: Boot) -> None:
    """The bank still holds its pages, but as surplus: once freed for a lease they would be gone."""
    host = neighbours(boot)
    host.configure(**SMALL)
    host.start()
    host.simulation.set_by_hand(0, number)
    host.start()
    pool = host.record.pool
    assert drift(pool, host.simulation.kernel.sight(pool)) == ()


def test_a_smaller_pool_is_undone_although_others_made_surplus_pages(boot: Boot) -> None:
    """Of the pages that the old bank frees, the kernel keeps those that others made surplus meanwhile."""
    host = neighbours(boot)
    host.configure(**SMALL)
    host.start()
    former = host.record.pool
    host.simulation.use(0, 6)
    state = host.state
    host.configure(memory_mib=48, cpu_count=4)
    host.simulation.deadline_task(4)
    with pytest.raises(CpuRefused) as refused:
        host.start()
    assert refused.value.outcome == "all changes undone"
    assert (host.state, host.record.pool) == (state, former)


def with_a_failed_undo(boot: Boot) -> Host:
    """Return a host whose smaller pool was refused, and some of whose former pages a thief took in the undo."""
    host = boot(ONE_NODE)
    host.settle()
    host.configure(**SMALL)
    host.start()
    host.configure(memory_mib=48, cpu_count=4)
    host.simulation.deadline_task(4)
    host.effects.after("unmount bank1", thief(host, 5))
    with pytest.raises(CpuRefused) as refused:
        host.start()
    assert refused.value.outcome == "could not undo: cannot hold the pool's pages: got 27 of 32 2M pages on node 0"
    host.simulation.tasks.clear()
    return host


def test_what_a_thief_took_in_an_undo_is_drift_that_a_start_mends(boot: Boot) -> None:
    """The thief keeps it; others are asked for instead."""
    host = with_a_failed_undo(boot)
    pool = host.record.pool
    assert [entry.what for entry in drift(pool, host.simulation.kernel.sight(pool))] == ["bank bank0"]
    host.start()
    pool = host.record.pool
    assert (len(pool.cpus), pool.memory_mib, drift(pool, host.simulation.kernel.sight(pool))) == (4, 48, ())
    host.give_back()
    host.simulation.release(0, 5)
    host.assert_untouched()


def test_what_a_thief_took_in_an_undo_keeps_no_later_start_away(boot: Boot) -> None:
    """A stop owes the former pool nothing; a bank of it that the next start insisted on could never be had."""
    host = with_a_failed_undo(boot)
    host.give_back()
    host.simulation.release(0, 5)
    host.assert_untouched()
    host.start()
    host.assert_pool_stands()


def test_a_bank_that_an_undo_restores_too_late_is_nobodys(boot: Boot) -> None:
    """The thief is gone between the first and the second attempt of a stop: nothing is held for no pool."""
    host = with_a_failed_undo(boot)
    host.effects.before("ledger giving", lambda: host.simulation.release(0, 5))
    host.give_back()
    host.assert_untouched()


def test_pages_that_appear_as_ours_are_given_back_are_told(boot: Boot, caplog: pytest.LogCaptureFixture) -> None:
    """The kernel says of no write what came of it: so it is read back."""
    host = boot(ONE_NODE)
    host.configure(**SMALL)
    host.start()
    host.effects.after("write 0 to devices/system/node/node0/hugepages", lambda: host.simulation.set_by_hand(0, 5))
    host.give_back()
    assert "give back 32×2M pages on node 0: node 0 has 5 more now than that" in caplog.text
    assert host.simulation.counts(0).persistent == 5
