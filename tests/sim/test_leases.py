"""Leases on a simulated machine: lent whole or not at all, and taken back whole, whatever fails or dies."""

import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest

from ali_enclaves_allocator.change import leases
from ali_enclaves_allocator.change.ledger import read
from ali_enclaves_allocator.model.errors import AllocatorError, KernelRefused, LeaseInTheWay
from ali_enclaves_allocator.model.placement import NoNodeFits
from ali_enclaves_allocator.model.pool import Lease, Pool, drift
from ali_enclaves_allocator.model.refusals import LeaseLimitReached, OnlineImpossible
from tests.conftest import Boot
from tests.machines import DUAL_SOCKET_HT, FOUR_NODES, GUEST_2X2X2, ONE_NODE, Machine
from tests.sim.effects import Died, Effects
from tests.sim.host import BOOT_ID, Host
from tests.sim.scenarios import LEASED, at, crowd

Die = Callable[[Effects, int], None]
Keys = Mapping[str, Any]


@dataclass(frozen=True)
class Lending:
    """A lease about to be taken from a pool of which `before` are lent already."""

    machine: Machine
    config: Keys
    before: tuple[Keys, ...]
    asked: Keys

    def prepare(self, boot: Boot) -> tuple[Host, int]:
        """Return a host, and the process that asks."""
        host = boot(self.machine)
        crowd(host.simulation)
        host.settle()
        host.configure(**self.config)
        host.start()
        for asked in self.before:
            host.lend(host.simulation.spawn(), **asked)
        host.effects.watch = lambda: assert_never_shared(host)
        return host, host.simulation.spawn()

    def lent(self, boot: Boot) -> tuple[Host, Lease]:
        """Return a host on which the lease is lent."""
        host, pid = self.prepare(boot)
        return host, host.lend(pid, **self.asked)


ONLINE = {"online": True}
TWO = {"memory_mib": 64, "cpu_count": 4, "max_enclaves": 2}

LENDINGS = {
    "offline": Lending(GUEST_2X2X2, {"memory_mib": 64, "cpu_count": 2}, (), {}),
    "online": Lending(GUEST_2X2X2, {"memory_mib": 64, "cpu_count": 2}, (), ONLINE),
    "all there is": Lending(GUEST_2X2X2, {"memory_mib": 64, "cpu_count": 2}, (), ONLINE | {"memory_mib": 64}),
    "beside another": Lending(ONE_NODE, TWO, (ONLINE,), ONLINE),
    "offline beside online": Lending(ONE_NODE, TWO, (ONLINE,), {}),
    "the last of it": Lending(ONE_NODE, TWO, (ONLINE,), ONLINE | {"memory_mib": 48}),
    "from the host": Lending(GUEST_2X2X2, {"memory_mib": 64, "cpu_count": 2} | LEASED, (), {}),
    "online from the host": Lending(GUEST_2X2X2, {"memory_mib": 64, "cpu_count": 4} | LEASED, (), ONLINE),
    "from the host beside another": Lending(ONE_NODE, TWO | LEASED, (ONLINE,), ONLINE),
    "in 1G": Lending(DUAL_SOCKET_HT, {"memory_mib": 2048, "cpu_count": 4, "hugepage_size": "1G"}, (), ONLINE),
}

each_lending = pytest.mark.parametrize("lending", LENDINGS.values(), ids=LENDINGS)
each_death = pytest.mark.parametrize("die", [Effects.die_before, Effects.die_after], ids=["before", "after"])
whether_the_holder_lives = pytest.mark.parametrize("alive", [True, False], ids=["released", "holder dead"])


def assert_never_shared(host: Host) -> None:
    """Check that no host task can be on a CPU that a living holder has online."""
    shared = {
        cpu
        for name, scope in host.simulation.scopes.items()
        for cpu in scope.cpus & host.simulation.hosts_cpus()
        if scope.pids
    }
    assert not shared, f"host tasks run on CPUs {shared} of a lease"
    assert not host.simulation.spilled, "a task of a lease was moved to the host's CPUs"


def assert_stands(host: Host, pool: Pool) -> None:
    host.assert_pool_stands()
    assert host.record.pool == pool
    assert all(lease.granted for lease in pool.leases)
    assert drift(pool, host.simulation.kernel.sight(pool)) == ()


def assert_goes_away(host: Host) -> None:
    """Check that when all holders end, start and stop leave nothing of ours."""
    for pid, process in host.simulation.processes.items():
        if process.alive:
            host.simulation.kill(pid)
    host.start()
    host.assert_pool_stands()
    assert host.record.pool.leases == ()
    host.give_back()
    host.assert_untouched()


def faults(done: list[str]) -> Iterator[int]:
    """Return the number of each effect, and name it when a check fails there."""
    for k, name in enumerate(done):
        with at(effect=k, name=name):
            yield k


@each_lending
def test_lent_and_taken_back(lending: Lending, boot: Boot) -> None:
    host, pid = lending.prepare(boot)
    former = host.record.pool
    lease = host.lend(pid, **lending.asked)
    assert lease.granted
    assert_stands(host, former.with_lease(lease))
    host.take_back(lease)
    assert_stands(host, former)
    assert not host.simulation.processes[pid].alive, "the tasks of its scope are ended"
    host.take_back(lease)
    assert_stands(host, former)
    assert_goes_away(host)


@each_lending
def test_a_failed_effect_lends_nothing(lending: Lending, boot: Boot) -> None:
    host, lease = lending.lent(boot)
    former = host.record.pool.without_lease(lease.id)
    for k in faults(host.done):
        host, pid = lending.prepare(boot)
        host.effects.fail(k, errno.EIO)
        with pytest.raises(AllocatorError) as refused:
            host.lend(pid, **lending.asked)
        assert refused.value.outcome == ("nothing is lent" if k else "nothing was changed")
        assert_stands(host, former)
        assert host.simulation.processes[pid].alive, "who is refused lives on"
        host.lend(pid, **lending.asked)
        assert_stands(host, former.with_lease(lease))
        assert_goes_away(host)


@each_death
@each_lending
def test_after_a_death_the_lease_is_whole_or_gone(lending: Lending, die: Die, boot: Boot) -> None:
    host, lease = lending.lent(boot)
    former = host.record.pool.without_lease(lease.id)
    for k in faults(host.done):
        host, pid = lending.prepare(boot)
        die(host.effects, k)
        with pytest.raises(Died):
            host.lend(pid, **lending.asked)
        granted = any(entry.granted for entry in host.record.pool.leases if entry.id == lease.id)
        host.start()
        assert_stands(host, former.with_lease(lease) if granted else former)
        assert_goes_away(host)


@each_lending
def test_a_failure_and_a_second_in_its_undo(lending: Lending, boot: Boot) -> None:
    host, lease = lending.lent(boot)
    former = host.record.pool.without_lease(lease.id)
    for k in faults(host.done):
        host, pid = lending.prepare(boot)
        host.effects.fail(k, errno.EIO)
        with suppress(AllocatorError):
            host.lend(pid, **lending.asked)
        for j in range(k + 1, len(host.done)):
            with at(second=j, name=host.done[j]):
                again, pid = lending.prepare(boot)
                again.effects.fail(k, errno.EIO)
                again.effects.fail(j, errno.EIO)
                with pytest.raises(AllocatorError) as refused:
                    again.lend(pid, **lending.asked)
                if refused.value.outcome == "nothing is lent":
                    continue
                assert refused.value.outcome.startswith("could not undo: ")
                (left,) = [entry for entry in again.record.pool.leases if entry.id == lease.id]
                if left.granted:  # and could not be called otherwise: it lasts until the holder ends
                    assert host.done[k].startswith("start evm-")
                    again.simulation.kill(pid)
                again.start()
                assert_stands(again, former)


@whether_the_holder_lives
@each_lending
def test_a_failure_while_taking_back_is_made_good(lending: Lending, alive: bool, boot: Boot) -> None:
    host, lease, former = about_to_end(lending, alive, boot)
    host.take_back(lease)
    for k in faults(host.done):
        host, lease, former = about_to_end(lending, alive, boot)
        host.effects.fail(k, errno.EIO)
        with suppress(AllocatorError):
            host.take_back(lease)
        left = [entry for entry in host.record.pool.leases if entry.id == lease.id]
        assert k == 0 or not any(entry.granted for entry in left)
        if k == 0 and alive:
            assert left == [lease], "nothing was done"
            host.take_back(lease)
        host.start()
        assert_stands(host, former)
        assert_goes_away(host)


@each_death
@whether_the_holder_lives
@each_lending
def test_a_death_while_taking_back_is_made_good(lending: Lending, alive: bool, die: Die, boot: Boot) -> None:
    host, lease, former = about_to_end(lending, alive, boot)
    host.take_back(lease)
    for k in faults(host.done):
        host, lease, former = about_to_end(lending, alive, boot)
        die(host.effects, k)
        with pytest.raises(Died):
            host.take_back(lease)
        kept = lease in host.record.pool.leases
        assert not kept or k == 0
        host.start()
        assert_stands(host, former.with_lease(lease) if kept and alive else former)
        assert_goes_away(host)


def about_to_end(lending: Lending, alive: bool, boot: Boot) -> tuple[Host, Lease, Pool]:
    """Return a host with the lease, its holder alive or dead with a child in its scope, and the pool without it."""
    host, lease = lending.lent(boot)
    if not alive:
        host.simulation.fork(lease.holder.pid)
        host.simulation.kill(lease.holder.pid)
    return host, lease, host.record.pool.without_lease(lease.id)


@each_death
def test_a_death_while_sweeping_several(die: Die, boot: Boot) -> None:
    def orphans() -> tuple[Host, Pool]:
        host = boot(FOUR_NODES)
        crowd(host.simulation)
        host.settle()
        host.configure(memory_mib=96, cpu_count=12, max_enclaves=4)
        host.start()
        pids = [host.simulation.spawn() for _ in range(3)]
        leases = [host.lend(pid, online=number < 2) for number, pid in enumerate(pids)]
        host.effects.watch = lambda: assert_never_shared(host)
        host.simulation.fork(pids[0])
        for pid in (pids[0], pids[2]):
            host.simulation.kill(pid)
        return host, replace(host.record.pool, leases=(leases[1],))

    host, pool = orphans()
    host.start()
    assert_stands(host, pool)
    for k in faults(host.done):
        host, pool = orphans()
        die(host.effects, k)
        with pytest.raises(Died):
            host.start()
        host.start()
        assert_stands(host, pool)
        host, pool = orphans()
        host.effects.fail(k, errno.EIO)
        host.start()
        host.start()
        assert_stands(host, pool)
        assert_goes_away(host)


@each_death
def test_cpus_that_the_host_has_again_are_not_lent_to_nobody(die: Die, boot: Boot) -> None:
    """One lease's end dies when its CPUs are the host's already; the end of another must not set them apart again."""

    def orphans() -> Host:
        host = boot(ONE_NODE)
        host.configure(memory_mib=64, cpu_count=4, max_enclaves=2, offline="leased")
        host.start()
        for _ in range(2):
            host.lend(host.simulation.spawn(), online=True)
        for lease in host.record.pool.leases:
            host.simulation.kill(lease.holder.pid)
        host.effects.watch = lambda: assert_confined_is_no_hosts(host)
        return host

    host = orphans()
    host.start()
    pool = host.record.pool
    for k in faults(host.done):
        host = orphans()
        die(host.effects, k)
        with suppress(Died):
            host.start()
        host.start()
        assert_stands(host, pool)
        assert_goes_away(host)


def assert_confined_is_no_hosts(host: Host) -> None:
    """Check that the partition has CPUs of leases only."""
    assert host.simulation.partition.cpus <= host.record.pool.lent_cpus or not host.simulation.partition.valid


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
        "cannot change the pool: it would cut a lease: web (CPUs 6-7, 16 MiB); nothing was changed\n"
        "  (keep its CPUs and memory in the pool, or end the enclave first: enclave-cli terminate-enclave)"
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


@pytest.mark.parametrize("mark", ["rename", "cut", "hold"])
def test_a_thief_while_a_lease_is_made_takes_none_of_its_pages(mark: str, boot: Boot) -> None:
    host, took = with_a_thief(boot), list[int]()
    former, pid = host.record.pool, host.simulation.spawn()
    host.effects.after(mark, lambda: took.append(host.simulation.use(0, 10)))
    lease = host.lend(pid, memory_mib=24)
    assert host.state.mounted["bank0"][f"lease-{lease.id}"] == (0,) * 12
    pool = former.with_lease(lease)
    assert sum(took) == (3 if mark == "cut" else 0)
    assert bool(drift(pool, host.simulation.kernel.sight(pool))) == (mark == "cut"), "what is not lent is short"
    host.simulation.release(0, sum(took))
    host.process(lambda kernel, _: leases.settle(pool, kernel))
    assert_stands(host, pool)
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


def test_what_a_holder_gives_up_early_is_held(boot: Boot) -> None:
    host, lease = LENDINGS["beside another"].lent(boot)
    pool, mount = host.record.pool, host.simulation.mounts[lease.bank]
    mount.truncate(f"lease-{lease.id}", 3)
    host.start()
    assert drift(pool, host.simulation.kernel.sight(pool)) == ()
    assert not mount.extend(f"lease-{lease.id}", lease.node)
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


def test_a_sibling_that_claims_the_cpus_first_is_named(boot: Boot) -> None:
    host, pid = LENDINGS["beside another"].prepare(boot)
    former, state = host.record.pool, host.state
    free = next(core for core in former.cores if core not in former.leased_cores)
    host.simulation.claim("machine.slice", *free.cpus)
    with pytest.raises(OnlineImpossible) as refused:
        host.lend(pid, online=True)
    assert "machine.slice claims some of CPUs" in str(refused.value)
    assert refused.value.outcome == "nothing is lent"
    assert (host.record.pool, host.state) == (former, state), "the other lease is as it was"
    host.lend(pid, online=False)


def test_a_partition_that_a_sibling_breaks_is_drift_until_mended(boot: Boot) -> None:
    host, lease = LENDINGS["beside another"].lent(boot)
    host.effects.watch = lambda: None
    pool = host.record.pool
    host.simulation.claim("machine.slice", min(lease.cpus))
    found = drift(pool, host.simulation.kernel.sight(pool))
    assert [str(entry) for entry in found] == [
        "CPUs 4-7: shared with the host, wanted lent, in a partition of their own"
    ]
    host.start()
    assert host.record.pool == pool, "the restart leaves it as it is, and says so"
    host.take_back(lease)
    assert host.record.pool == pool.without_lease(lease.id), "it can end all the same"
    assert_never_shared(host)
    host.simulation.siblings.clear()
    host.start()
    assert_stands(host, pool.without_lease(lease.id))
    assert_goes_away(host)


def test_a_broken_partition_is_mended_by_a_restart(boot: Boot) -> None:
    host, _ = LENDINGS["beside another"].lent(boot)
    host.effects.watch = lambda: None
    pool = host.record.pool
    host.simulation.claim("machine.slice", 5)
    host.simulation.siblings.clear()
    assert drift(pool, host.simulation.kernel.sight(pool))
    host.start()
    assert_stands(host, pool)


def test_a_cpu_that_cannot_go_offline_stays_with_its_lease(boot: Boot) -> None:
    host, lease = LENDINGS["online"].lent(boot)
    host.simulation.deadline_task(max(lease.cpus))
    with pytest.raises(AllocatorError, match=r"held by drumbeat\[700\]; the lease has ended, and what it still holds"):
        host.take_back(lease)
    assert host.record.pool.leases == (replace(lease, granted=False),)
    assert lease.cpus >= host.simulation.online - host.simulation.hosts_cpus(), "it stays in the partition"
    host.simulation.tasks.clear()
    host.start()
    assert host.record.pool.leases == ()
    assert_goes_away(host)


# The ledger


ANNOTATIONS: list[dict[str, Any]] = [
    {"EnclaveCID": 18, "Flags": "NONE", "image": {"path": "/x y", "pcr0": "00" * 48}, "ok": True, "none": None},
    {"one": 1.0, "small": 1e-300, "large": 1e300, "minus": -0.0, "huge": 10**40, "e": 1e16, "third": 1 / 3},
    {"": [], "ü": '\u2028 \U0001f600 \x00 \x7f \\ "', "nested": [[[[[[[[]]]]]]]]},
    {str(number): number for number in range(60)},
]


def test_a_lent_cpu_that_is_unplugged_is_not_waited_for(boot: Boot) -> None:
    host = boot(GUEST_2X2X2)
    host.configure(memory_mib=64, cpu_count=2)
    host.start()
    lease = host.lend(host.simulation.spawn(), **ONLINE)
    host.simulation.unplug(max(lease.cpus))
    host.take_back(lease)
    host.give_back()
    assert host.state == replace(host.origin, online=host.origin.online - {max(lease.cpus)})


@pytest.mark.parametrize("annotations", ANNOTATIONS, ids=range(len(ANNOTATIONS)))
def test_the_ledger_reads_the_annotations_it_wrote(annotations: dict[str, Any], boot: Boot) -> None:
    host, pid = LENDINGS["offline"].prepare(boot)
    host.simulation.processes[pid].comm = "a\ufffdb?"
    lease = host.lend(pid, annotations=annotations, name="a" * 64)
    assert read(host.directory / "ledger.json", BOOT_ID).pool.leases == (lease,)
