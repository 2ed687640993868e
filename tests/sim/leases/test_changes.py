"""The pool changes around leases, and never through one."""

import errno
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest

from ali_enclaves_allocator.model.errors import AllocatorError, LeaseInTheWay
from ali_enclaves_allocator.model.placement import NoNodeFits
from ali_enclaves_allocator.model.pool import Lease
from ali_enclaves_allocator.model.refusals import LeaseLimitReached
from tests.conftest import Boot
from tests.machines import FOUR_NODES, ONE_NODE
from tests.sim.effects import Died
from tests.sim.host import Host
from tests.sim.leases.stand import (
    LENDINGS,
    ONLINE,
    TWO,
    Die,
    Keys,
    Lending,
    assert_goes_away,
    assert_stands,
    each_death,
    faults,
)


def test_one_lease_that_cannot_be_taken_back_keeps_nobody_waiting(boot: Boot, caplog: pytest.LogCaptureFixture) -> None:
    host, lease = LENDINGS["beside another"].lent(boot)
    other = next(entry for entry in host.record.pool.leases if entry.id != lease.id)
    for entry in (lease, other):
        host.simulation.kill(entry.holder.pid)
    host.effects.fail(f"write 0 to devices/system/cpu/cpu{max(other.cpus)}", errno.EBUSY)
    host.configure(memory_mib=96, cpu_count=4, max_enclaves=2)
    host.start()
    assert host.record.pool.leases == (replace(other, granted=False),)
    assert host.record.pool.memory_mib == 96, "the file is brought into force around it"
    assert f"cannot take CPU {max(other.cpus)} offline" in caplog.text
    host.start()
    assert host.record.pool.leases == ()
    assert_goes_away(host)


# Around leases


def test_cores_grow_and_shrink_around_a_lease(boot: Boot) -> None:
    host, lease = LENDINGS["online"].lent(boot)
    for cpu_count, memory_mib in ((4, 96), (6, 128), (2, 64)):
        host.configure(memory_mib=memory_mib, cpu_count=cpu_count, max_enclaves=2)
        host.start()
        pool = host.record.pool
        assert_stands(host, pool)
        assert (len(pool.cpus), pool.memory_mib, pool.leases) == (cpu_count, memory_mib, (lease,))
    assert_goes_away(host)


def test_pages_that_only_a_lease_kept_held_are_free_at_its_end(boot: Boot) -> None:
    """`hold_memory: false` came while the lease lived; no restart is needed for the rest of it."""
    host, lease = LENDINGS["online"].lent(boot)
    host.configure(memory_mib=64, cpu_count=2, hold_memory=False)
    host.start()
    assert [bank.name for bank in host.record.pool.banks] == [lease.bank], "a leased bank cannot be cut"
    host.take_back(lease)
    assert host.record.pool.banks == ()
    assert_stands(host, host.record.pool)
    host.start()
    assert host.done == [], "there is nothing left to do"
    assert_goes_away(host)


@each_death
def test_a_death_while_pages_are_let_go_at_the_end_of_a_lease(die: Die, boot: Boot) -> None:
    def loose() -> tuple[Host, Lease]:
        host, lease = LENDINGS["online"].lent(boot)
        host.configure(memory_mib=64, cpu_count=2, hold_memory=False)
        host.start()
        return host, lease

    host, lease = loose()
    host.take_back(lease)
    pool = host.record.pool
    for k in faults(host.done):
        host, lease = loose()
        host.simulation.kill(lease.holder.pid)
        die(host.effects, k)
        with suppress(Died):
            host.take_back(lease)
        host.start()
        assert_stands(host, pool)
        assert_goes_away(host)


@pytest.mark.parametrize(
    "keys",
    [
        {"memory_mib": 48},
        {"cpu_pool": "2-3", "cpu_count": None},
        {"hugepage_size": "1G"},
    ],
    ids=str,
)
def test_what_would_cut_a_lease_is_refused_by_its_name(keys: Keys, boot: Boot) -> None:
    lending = Lending(ONE_NODE, {"memory_mib": 64, "cpu_count": 2}, (), ONLINE | {"name": "web"})
    host, lease = lending.lent(boot)
    state, pool = host.state, host.record.pool
    wanted = {"memory_mib": 64, "cpu_count": 2} | keys
    host.configure(**{name: value for name, value in wanted.items() if value is not None})
    with pytest.raises(LeaseInTheWay) as refused:
        host.start()
    assert str(refused.value) == (
        "cannot change the pool as asked beside running enclaves: web (CPUs 6-7, 16 MiB); nothing was changed\n"
        "  (an enclave keeps its cores and its pages on their node: ask for what fits beside them, let the pool have "
        "more nodes by max_enclaves, or end the enclave first: enclave-cli terminate-enclave)"
    )
    assert (host.state, host.record.pool, host.done) == (state, pool, [])
    host.simulation.kill(lease.holder.pid)
    host.start()
    assert_goes_away(host)


def test_what_fits_nowhere_is_not_blamed_on_a_lease(boot: Boot) -> None:
    host, _ = LENDINGS["online"].lent(boot)
    host.configure(memory_mib=64, cpu_count=8)
    with pytest.raises(NoNodeFits):
        host.start()


def test_fewer_enclaves_than_exist_may_be_asked_for(boot: Boot) -> None:
    host, _ = LENDINGS["beside another"].lent(boot)
    pool = host.record.pool
    host.configure(**TWO | {"max_enclaves": 1})
    host.start()
    assert_stands(host, replace(pool, config=host.record.pool.config))
    with pytest.raises(LeaseLimitReached) as refused:
        host.lend(host.simulation.spawn())
    assert "2 of at most 1 enclaves exist (max_enclaves)" in str(refused.value)


def test_stop_keeps_what_is_leased_and_no_more(boot: Boot) -> None:
    lending = Lending(FOUR_NODES, {"memory_mib": 96, "cpu_count": 8, "max_enclaves": 2}, (), ONLINE)
    host, lease = lending.lent(boot)
    host.give_back()
    pool = host.record.pool
    assert_stands(host, pool)
    assert (pool.cores, pool.leases, [bank.name for bank in pool.banks]) == (lease.cores, (lease,), [lease.bank])
    host.give_back()
    assert host.done == [], "the second time there is nothing to do"
    host.start()
    assert_stands(host, host.record.pool)
    assert host.record.pool.leases == (lease,)
    host.give_back()
    host.simulation.kill(lease.holder.pid)
    host.start()
    assert_stands(host, host.record.pool)
    assert (len(host.record.pool.cpus), host.record.pool.leases) == (8, ())
    host.give_back()
    host.assert_untouched()


def test_a_restart_with_a_broken_file_ends_the_dead_ones(boot: Boot) -> None:
    host, lease = LENDINGS["beside another"].lent(boot)
    host.simulation.kill(lease.holder.pid)
    host.config_path.write_text("memory_mib: much\n")
    former = host.record.pool
    with pytest.raises(AllocatorError):
        host.start()
    assert_stands(host, former.without_lease(lease.id))


@each_death
def test_a_death_in_a_change_around_a_lease(die: Die, boot: Boot) -> None:
    """The pool grows, shrinks or is given back around the lease, and dies at any point."""
    changes: list[Callable[[Host], None]] = [
        lambda host: (host.configure(memory_mib=96, cpu_count=4, max_enclaves=2), host.start())[1],
        Host.give_back,
    ]
    for change in changes:
        host, _ = LENDINGS["online"].lent(boot)
        change(host)
        wanted = host.record.pool
        for k in faults(host.done):
            host, _ = LENDINGS["online"].lent(boot)
            die(host.effects, k)
            with pytest.raises(Died):
                change(host)
            change(host)
            assert_stands(host, wanted)
            assert_goes_away(host)
