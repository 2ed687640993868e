"""Leases of every kind, and what must hold of them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from ali_enclaves_allocator.model.pool import Lease, Pool, drift
from tests.conftest import Boot
from tests.machines import DUAL_SOCKET_HT, GUEST_2X2X2, ONE_NODE, Machine
from tests.sim.effects import Effects
from tests.sim.host import Host
from tests.sim.scenarios import LEASED, at, crowd

Keys = Mapping[str, Any]
Die = Callable[[Effects, int], None]


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
