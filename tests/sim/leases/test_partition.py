"""CPUs that are lent online: who else claims them, and what does not come back."""

from dataclasses import replace

import pytest

from ali_enclaves_allocator.model.errors import AllocatorError
from ali_enclaves_allocator.model.pool import drift
from ali_enclaves_allocator.model.refusals import OnlineImpossible
from tests.conftest import Boot
from tests.machines import GUEST_2X2X2
from tests.sim.leases.stand import LENDINGS, ONLINE, assert_goes_away, assert_never_shared, assert_stands


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


def test_a_lent_cpu_that_is_unplugged_is_not_waited_for(boot: Boot) -> None:
    host = boot(GUEST_2X2X2)
    host.configure(memory_mib=64, cpu_count=2)
    host.start()
    lease = host.lend(host.simulation.spawn(), **ONLINE)
    host.simulation.unplug(max(lease.cpus))
    host.take_back(lease)
    host.give_back()
    assert host.state == replace(host.origin, online=host.origin.online - {max(lease.cpus)})
