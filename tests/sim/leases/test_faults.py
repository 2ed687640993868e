"""Any effect of a lease may fail, or be the process's last: the lease is whole, or gone."""

import errno
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from ali_enclaves_allocator.change.ledger import read
from ali_enclaves_allocator.model.errors import AllocatorError
from ali_enclaves_allocator.model.pool import Lease, Pool
from tests.conftest import Boot
from tests.machines import FOUR_NODES, ONE_NODE
from tests.sim.effects import Died
from tests.sim.host import BOOT_ID, Host
from tests.sim.leases.stand import (
    LENDINGS,
    Die,
    Lending,
    assert_goes_away,
    assert_never_shared,
    assert_stands,
    each_death,
    each_lending,
    faults,
    whether_the_holder_lives,
)
from tests.sim.scenarios import at, crowd


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
                left = [entry for entry in again.record.pool.leases if entry.id == lease.id]
                assert left or "cannot hold the pool's pages" in refused.value.outcome
                if left and left[0].granted:  # and could not be called otherwise: it lasts until the holder ends
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
        banks = host.record.pool.banks  # one that could not be filled again is a new one
        assert [(bank.node, bank.pages) for bank in banks] == [(bank.node, bank.pages) for bank in pool.banks]
        assert_stands(host, replace(pool, banks=banks))
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
        banks = host.record.pool.banks  # one that could not be filled again is a new one
        assert [(bank.node, bank.pages) for bank in banks] == [(bank.node, bank.pages) for bank in pool.banks]
        assert_stands(host, replace(pool, banks=banks))
        assert_goes_away(host)


def assert_confined_is_no_hosts(host: Host) -> None:
    """Check that the partition has CPUs of leases only."""
    assert host.simulation.partition.cpus <= host.record.pool.lent_cpus or not host.simulation.partition.valid


# The ledger


ANNOTATIONS: list[dict[str, Any]] = [
    {"EnclaveCID": 18, "Flags": "NONE", "image": {"path": "/x y", "pcr0": "00" * 48}, "ok": True, "none": None},
    {"one": 1.0, "small": 1e-300, "large": 1e300, "minus": -0.0, "huge": 10**40, "e": 1e16, "third": 1 / 3},
    {"": [], "ü": '\u2028 \U0001f600 \x00 \x7f \\ "', "nested": [[[[[[[[]]]]]]]]},
    {str(number): number for number in range(60)},
]


@pytest.mark.parametrize("annotations", ANNOTATIONS, ids=range(len(ANNOTATIONS)))
def test_the_ledger_reads_the_annotations_it_wrote(annotations: dict[str, Any], boot: Boot) -> None:
    host, pid = LENDINGS["offline"].prepare(boot)
    host.simulation.processes[pid].comm = "a\ufffdb?"
    lease = host.lend(pid, annotations=annotations, name="a" * 64)
    assert read(host.directory / "ledger.json", BOOT_ID).pool.leases == (lease,)
