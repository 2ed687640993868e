"""The transaction and the ledger on a simulated machine: a change happens whole, or not at all."""

import errno
from collections.abc import Callable

import pytest

from ali_enclaves_allocator.model.errors import AllocatorError, NotGivenBack
from ali_enclaves_allocator.model.pool import Pool, drift
from tests.conftest import Boot
from tests.sim.effects import Died, Effects
from tests.sim.host import Host
from tests.sim.scenarios import SCENARIOS, Scenario, at

each_scenario = pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
each_death = pytest.mark.parametrize("die", [Effects.die_before, Effects.die_after], ids=["before", "after"])

Die = Callable[[Effects, int], None]


def assert_stands(host: Host, pool: Pool) -> None:
    """Check that exactly this pool stands."""
    host.assert_pool_stands()
    assert host.record.pool == pool
    if pool == Pool():
        host.assert_untouched()


def outcome(scenario: Scenario, boot: Boot) -> tuple[Pool, Pool, list[str]]:
    """Return the pools before and after the change, and its effects, when nothing goes wrong."""
    host = scenario.prepare(boot)
    former = host.record.pool
    names = scenario.run(host)
    return former, host.record.pool, names


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
    assert host.start() == [], "the second time there is nothing to do"


@each_scenario
def test_stop_restores_every_counter(scenario: Scenario, boot: Boot) -> None:
    host = scenario.prepare(boot)
    scenario.run(host)
    host.give_back()
    host.assert_untouched()
    assert host.give_back() == [], "the second time there is nothing to do"


@each_scenario
def test_a_failed_effect_leaves_the_former_pool_or_the_new_one(scenario: Scenario, boot: Boot) -> None:
    former, wanted, names = outcome(scenario, boot)
    for k, name in enumerate(names):
        with at(effect=k, name=name):
            host = scenario.prepare(boot)
            host.effects.fail(k, errno.EIO)
            try:
                scenario.run(host)
            except NotGivenBack:
                assert host.record.pool == wanted
                assert host.record.phase == "giving"
            except AllocatorError as error:
                assert_stands(host, former)
                assert error.outcome in ("nothing was changed", "all changes undone")
            scenario.run(host)
            assert_stands(host, wanted)


@each_death
@each_scenario
def test_after_a_death_the_next_start_brings_what_is_wanted(scenario: Scenario, die: Die, boot: Boot) -> None:
    _, wanted, names = outcome(scenario, boot)
    for k, name in enumerate(names):
        with at(effect=k, name=name):
            host = scenario.prepare(boot)
            die(host.effects, k)
            with pytest.raises(Died):
                scenario.run(host)
            scenario.run(host)
            assert_stands(host, wanted)


@each_death
@each_scenario
def test_after_a_death_stop_restores_everything(scenario: Scenario, die: Die, boot: Boot) -> None:
    *_, names = outcome(scenario, boot)
    for k, name in enumerate(names):
        with at(effect=k, name=name):
            host = scenario.prepare(boot)
            die(host.effects, k)
            with pytest.raises(Died):
                scenario.run(host)
            host.give_back()
            host.assert_untouched()
