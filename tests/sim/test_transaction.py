"""The transaction and the ledger on a simulated machine: a change happens whole, or not at all.

Every test runs a scenario once to learn its effects, then again for each effect with a fault there.
"""

import errno
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from ali_enclaves_allocator.model.errors import AllocatorError, NotGivenBack
from ali_enclaves_allocator.model.pool import Pool, drift
from tests.conftest import Boot
from tests.sim.effects import Died, Effects
from tests.sim.host import Host
from tests.sim.scenarios import SCENARIOS, Scenario, at

Die = Callable[[Effects, int], None]

TWICE = ("apply over nodes", "grow", "shrink the memory", "move", "to 1G", "give back", "to the driver")
"""Scenarios for faults in pairs: between them they have every kind of step both ways."""

each_scenario = pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
each_of_some = pytest.mark.parametrize("scenario", [SCENARIOS[name] for name in TWICE], ids=TWICE)
each_death = pytest.mark.parametrize("die", [Effects.die_before, Effects.die_after], ids=["before", "after"])


def assert_stands(host: Host, pool: Pool) -> None:
    """Check that exactly this pool stands."""
    host.assert_pool_stands()
    assert host.record.pool == pool
    if pool == Pool():
        host.assert_untouched()


def pools(scenario: Scenario, boot: Boot) -> tuple[Pool, Pool]:
    """Return the pools before and after the change, when nothing goes wrong."""
    host = scenario.prepare(boot)
    former = host.record.pool
    scenario.run(host)
    return former, host.record.pool


def hosts(scenario: Scenario, boot: Boot) -> Iterator[tuple[int, Host]]:
    """Return for each effect of the change its number, and a host on which it is about to begin."""
    host = scenario.prepare(boot)
    scenario.run(host)
    for k, name in enumerate(host.done):
        with at(effect=k, name=name):
            yield k, scenario.prepare(boot)


@each_scenario
def test_the_machine_differs_by_exactly_the_pool(scenario: Scenario, boot: Boot) -> None:
    host = scenario.prepare(boot)
    host.assert_pool_stands()
    scenario.run(host)
    host.assert_pool_stands()
    pool = host.record.pool
    if scenario.after is None:
        host.assert_untouched()
        return
    assert drift(pool, host.simulation.kernel.sight(pool)) == ()
    assert pool.memory_mib >= scenario.after["memory_mib"]
    host.start()
    assert host.done == [], "the second time there is nothing to do"


@each_scenario
def test_stop_restores_every_counter(scenario: Scenario, boot: Boot) -> None:
    host = scenario.prepare(boot)
    scenario.run(host)
    host.give_back()
    host.assert_untouched()
    host.give_back()
    assert host.done == [], "the second time there is nothing to do"


@each_scenario
def test_a_failed_effect_leaves_the_former_pool_or_the_new_one(scenario: Scenario, boot: Boot) -> None:
    former, wanted = pools(scenario, boot)
    for k, host in hosts(scenario, boot):
        host.effects.fail(k, errno.EIO)
        try:
            scenario.run(host)
        except NotGivenBack:
            assert host.record.pool == wanted
            assert host.record.phase == "giving"
        except AllocatorError as error:
            assert_stands(host, former)
            assert error.outcome == ("all changes undone" if k else "nothing was changed")
        else:
            assert host.done[-1] == "ledger idle", "only the last note of a give-back may be lost"
            assert host.record.pool == wanted
        scenario.run(host)
        assert_stands(host, wanted)


@each_death
@each_scenario
def test_after_a_death_the_next_start_brings_what_is_wanted(scenario: Scenario, die: Die, boot: Boot) -> None:
    _, wanted = pools(scenario, boot)
    for k, host in hosts(scenario, boot):
        die(host.effects, k)
        with pytest.raises(Died):
            scenario.run(host)
        scenario.run(host)
        assert_stands(host, wanted)


@each_death
@each_scenario
def test_after_a_death_stop_restores_everything(scenario: Scenario, die: Die, boot: Boot) -> None:
    for k, host in hosts(scenario, boot):
        die(host.effects, k)
        with pytest.raises(Died):
            scenario.run(host)
        host.give_back()
        host.assert_untouched()


@each_death
@each_scenario
def test_after_a_death_the_former_pool_stands_again_or_the_new_one(scenario: Scenario, die: Die, boot: Boot) -> None:
    former, wanted = pools(scenario, boot)
    for k, host in hosts(scenario, boot):
        die(host.effects, k)
        with pytest.raises(Died):
            scenario.run(host)
        committed = host.record.pool == wanted
        host.recover()
        assert_stands(host, wanted if committed else former)


@each_of_some
def test_a_death_in_the_undo_of_a_failure(scenario: Scenario, boot: Boot) -> None:
    _, wanted = pools(scenario, boot)
    for k, host in hosts(scenario, boot):
        host.effects.fail(k, errno.EIO)
        with suppress(AllocatorError):
            scenario.run(host)
        for j in range(k + 1, len(host.done)):
            with at(death=j, name=host.done[j]):
                again = scenario.prepare(boot)
                again.effects.fail(k, errno.EIO)
                again.effects.die_before(j)
                with pytest.raises(Died):
                    scenario.run(again)
                scenario.run(again)
                assert_stands(again, wanted)
                again.give_back()
                again.assert_untouched()


@each_of_some
def test_a_death_in_the_recovery_from_a_death(scenario: Scenario, boot: Boot) -> None:
    _, wanted = pools(scenario, boot)
    for k, host in hosts(scenario, boot):
        die_and_run(scenario, host, k)
        scenario.run(host)
        for j, name in enumerate(host.done):
            with at(second_death=j, name=name):
                again = scenario.prepare(boot)
                die_and_run(scenario, again, k)
                die_and_run(scenario, again, j)
                scenario.run(again)
                assert_stands(again, wanted)


def die_and_run(scenario: Scenario, host: Host, k: int) -> None:
    """Run a change that dies just before one of its effects."""
    host.effects.die_before(k)
    with pytest.raises(Died):
        scenario.run(host)
