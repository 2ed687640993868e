"""Others take, unmount or outgrow what leases and banks have."""

import pytest

from ali_enclaves_allocator.change import leases
from ali_enclaves_allocator.model.errors import KernelRefused
from ali_enclaves_allocator.model.pool import drift
from tests.conftest import Boot
from tests.machines import GUEST_2X2X2
from tests.sim.host import Host
from tests.sim.leases.stand import LENDINGS, assert_goes_away, assert_stands

# Other programs


def with_a_thief(boot: Boot) -> Host:
    """Return a host on which others have idle pages on another node.

    What is promised is a count on any node, so a thief may take ours while they change hands.
    """
    host = boot(GUEST_2X2X2)
    host.simulation.set_by_hand(1, 3)
    host.settle()
    host.configure(memory_mib=64, cpu_pool="2-3")
    host.start()
    return host


@pytest.mark.parametrize("mark", ["rename", "own"])
def test_a_thief_while_a_lease_is_made_takes_nothing(mark: str, boot: Boot) -> None:
    host, took = with_a_thief(boot), list[int]()
    former, pid = host.record.pool, host.simulation.spawn()
    host.effects.after(mark, lambda: took.append(host.simulation.use(0, 10)))
    lease = host.lend(pid, memory_mib=24)
    assert host.state.mounted["bank0"][f"lease-{lease.id}"] == (0,) * 12
    assert took == [0]
    assert_stands(host, former.with_lease(lease))
    assert_goes_away(host)


def test_a_thief_while_a_lease_is_taken_back(boot: Boot) -> None:
    host, took = with_a_thief(boot), list[int]()
    former = host.record.pool
    lease = host.lend(host.simulation.spawn(), memory_mib=24)
    host.effects.after("cut", lambda: took.append(host.simulation.use(0, 10)))
    host.take_back(lease)
    assert sum(took) == 3
    assert host.record.pool == former, "it has ended all the same"
    host.simulation.release(0, 1)
    host.process(lambda kernel, _: leases.settle(former, kernel))
    assert [entry.got for entry in drift(former, host.simulation.kernel.sight(former))] == ["30 pages held"]
    host.simulation.release(0, 2)
    host.process(lambda kernel, _: leases.settle(former, kernel))
    assert_stands(host, former)
    assert_goes_away(host)


def test_pages_that_a_thief_keeps_are_replaced_by_a_restart(boot: Boot) -> None:
    host = with_a_thief(boot)
    lease = host.lend(host.simulation.spawn(), memory_mib=24)
    host.effects.after("cut", lambda: host.simulation.use(0, 10))
    host.take_back(lease)
    host.start()
    pool = host.record.pool
    assert (pool.memory_mib, drift(pool, host.simulation.kernel.sight(pool))) == (64, ())


@pytest.mark.parametrize("mark", ["cut", "hold"])
def test_a_holder_that_grows_while_pages_change_hands(mark: str, boot: Boot) -> None:
    """The mount has room for a moment: what a holder gets of that is taken away again."""
    host, lease = LENDINGS["beside another"].lent(boot)
    pool, grower = host.record.pool, next(entry for entry in host.record.pool.leases if entry.id != lease.id)
    mount, got = host.simulation.mounts[lease.bank], list[bool]()
    host.effects.after(mark, lambda: got or got.append(mount.extend(f"lease-{grower.id}", lease.node)))
    host.take_back(lease)
    assert got == [mark == "cut"]
    assert_stands(host, pool.without_lease(lease.id))
    mount.truncate("hold", len(mount.files["hold"]) - 1)
    assert mount.extend(f"lease-{grower.id}", lease.node)
    host.start()
    assert_stands(host, pool.without_lease(lease.id))
    assert_goes_away(host)


def test_what_a_holder_makes_free_is_kept_for_it(boot: Boot) -> None:
    """It is nobody's shortage: others get leases, and it can have its own again."""
    host, lease = LENDINGS["beside another"].lent(boot)
    pool, mount = host.record.pool, host.simulation.mounts[lease.bank]
    mount.truncate(f"lease-{lease.id}", 3)
    host.start()
    assert drift(pool, host.simulation.kernel.sight(pool)) == ()
    assert mount.extend(f"lease-{lease.id}", lease.node)
    host.take_back(lease)
    assert_stands(host, pool.without_lease(lease.id))
    assert_goes_away(host)


def test_a_thief_finds_nothing_while_there_is_no_idle_page(boot: Boot) -> None:
    host = boot(GUEST_2X2X2)
    host.configure(memory_mib=64, cpu_count=2)
    host.start()
    took: list[int] = []
    host.effects.watch = lambda: took.append(host.simulation.use(0, 100) + host.simulation.use(1, 100))
    lease = host.lend(host.simulation.spawn(), memory_mib=24)
    host.take_back(lease)
    assert len(took) > 10
    assert not any(took)


def test_a_leased_bank_that_is_short_is_filled_again(boot: Boot) -> None:
    host, lease = LENDINGS["online"].lent(boot)
    mount = host.simulation.mounts[lease.bank]
    mount.truncate("hold", 5)
    pool = host.record.pool
    assert drift(pool, host.simulation.kernel.sight(pool))
    host.start()
    assert_stands(host, pool)


def test_a_leased_bank_unmounted_by_hand_costs_no_other_lease(boot: Boot) -> None:
    host, lease = LENDINGS["online"].lent(boot)
    host.simulation.mounts.pop(lease.bank).close()
    pool = host.record.pool
    host.start()
    assert lease in host.record.pool.leases
    assert [entry.what for entry in drift(pool, host.simulation.kernel.sight(pool))] == [f"bank {lease.bank}"]
    host.take_back(lease)
    host.start()
    assert_stands(host, host.record.pool)
    assert_goes_away(host)


def test_a_bank_that_is_not_there_lends_nothing(boot: Boot) -> None:
    host, pid = LENDINGS["online"].prepare(boot)
    former = host.record.pool
    host.simulation.mounts.pop("bank0").close()
    with pytest.raises(KernelRefused) as refused:
        host.lend(pid)
    assert str(refused.value) == "cannot lend: No such file or directory; nothing is lent"
    assert host.record.pool == former
    host.start()
    assert_stands(host, host.record.pool)
