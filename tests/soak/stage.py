"""A host among others: what goes wrong around its processes, and what others do to it."""

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ali_enclaves_allocator.model.pool import Drift, Pool, drift
from tests.machines import Machine
from tests.sim.effects import Effects
from tests.sim.host import Host
from tests.soak.others import Key, Others


@dataclass(frozen=True)
class Trouble:
    """What goes wrong around one effect of a process."""

    what: str
    """die_before, die_after, fail, full, steal, kill, raise."""
    effect: int
    code: int = errno.EIO
    key: Key = (0, 2048)
    count: int = 1


class Stage:
    """One machine, and all who act on it beside the allocator."""

    def __init__(self, machine: Machine, directory: Path, crowded: bool) -> None:
        self.host = Host(machine, directory)
        self.simulation = self.host.simulation
        self.others = Others(machine, self.simulation, crowded)
        self.shrunk: set[str] = set()
        """Leases whose holders gave up pages."""
        self.troubled = False
        """Whether something else happened in the middle of the last process than what it did itself."""

    @property
    def pool(self) -> Pool:
        """The pool that the ledger records."""
        return self.host.record.pool

    @property
    def drift(self) -> tuple[Drift, ...]:
        """What differs from it."""
        return drift(self.pool, self.simulation.kernel.sight(self.pool))

    def plan(self, troubles: list[Trouble]) -> None:
        """Plan what goes wrong in the next process."""
        self.troubled = bool(troubles)
        effects = self.simulation.effects
        effects.restart()
        for trouble in troubles:
            self._plan(trouble, effects)

    def _plan(self, trouble: Trouble, effects: Effects) -> None:
        key = (self.node(trouble.key[0]), trouble.key[1])
        match trouble.what:
            case "die_before":
                effects.die_before(trouble.effect)
            case "die_after":
                effects.die_after(trouble.effect)
            case "fail":
                effects.fail(trouble.effect, trouble.code)
            case "full":
                effects.fail("ledger", errno.ENOSPC)
            case "steal":
                effects.after(trouble.effect, lambda: self.others.steal(key, trouble.count))
            case "kill":
                effects.after(trouble.effect, lambda: self.kill(trouble.count))
            case "raise":  # what we read before, we write: theirs is lost, as of any two who do that
                self.others.blurred.add(key)
                effects.after(trouble.effect, lambda: self.others.raise_number(key, trouble.count))

    def configure(self, keys: dict[str, Any]) -> None:
        """Write allocator.yaml."""
        self.host.configure(**keys)

    def node(self, number: int) -> int:
        """Return one of the nodes with memory."""
        nodes = [node for node, mib in self.simulation.machine.memory_mib.items() if mib]
        return nodes[number % len(nodes)]

    # What others do, as far as it can be told from what the allocator does

    def do(self, what: str, *arguments: Any) -> None:
        """Do what is named."""
        getattr(self, f"_{what}")(*arguments)

    def kill(self, number: int, forked: bool = False) -> None:
        """End one of the holders, or none; a child of it may live on."""
        living = [lease.holder.pid for lease in self.pool.leases if self.simulation.processes[lease.holder.pid].alive]
        if living:
            if forked:
                self.simulation.fork(living[number % len(living)])
            self.simulation.kill(living[number % len(living)])

    def give_up_pages(self, number: int, length: int) -> None:
        """Let a holder cut its file."""
        lease = self.pool.leases[number % len(self.pool.leases)]
        mount = self.simulation.mounts.get(lease.bank)
        if mount and f"lease-{lease.id}" in mount.files:
            mount.truncate(f"lease-{lease.id}", length)
            self.shrunk.add(lease.id)

    def _use(self, key: Key, count: int) -> None:
        self.others.use((self.node(key[0]), key[1]), count)

    def _free(self, key: Key, count: int) -> None:
        self.others.release((self.node(key[0]), key[1]), count)

    def _raise_number(self, key: Key, count: int) -> None:
        self.others.raise_number((self.node(key[0]), key[1]), count)

    def _lower_number(self, key: Key, count: int) -> None:
        node = self.node(key[0])
        loose = self.pool.config and not self.pool.config.hold_memory
        if self.host.record.phase != "idle" or loose or self.drift:
            self.others.blurred.add((node, key[1]))
        self.others.lower_number((node, key[1]), count)

    def _overwrite_number(self, key: Key, number: int) -> None:
        self.others.overwrite_number((self.node(key[0]), key[1]), number)

    def _overcommit(self, count: int) -> None:
        self.others.overcommit(count)

    def _return_stolen(self) -> None:
        self.others.return_stolen()

    def _take_memory(self, number: int, mib: int) -> None:
        self.others.take_memory(self.node(number), mib * 1024)

    def _scatter(self, number: int, mib: int, stuck_mib: int) -> None:
        self.others.scatter(self.node(number), mib * 1024, stuck_mib * 1024)

    def _bring_up(self, cpu: int) -> None:
        """Bring a CPU online by hand, were it the pool's."""
        if cpu not in self.pool.lent_cpus | self.pool.driver_cpus | self.simulation.driver.cpus:
            self.others.set_cpu(cpu, True)

    def _take_down(self, cpu: int) -> None:
        """Take one of the host's CPUs offline."""
        host = self.simulation.hosts_cpus() - self.simulation.machine.fixed_cpus
        if cpu in host - self.pool.offline_cpus and self.host.record.phase == "idle" and not self.simulation.tasks:
            self.others.set_cpu(cpu, False)

    def _unplug(self, cpu: int) -> None:
        """Take a core out of the machine that no lease has."""
        core = self.simulation.core_of.get(cpu)
        taken = {*self.pool.leased_cores, self.simulation.core_of[0]}
        if core and self.host.record.phase == "idle" and core not in taken and not self.simulation.driver.cpus:
            self.others.unplug(*core.cpus)

    def _plug(self) -> None:
        if absent := self.simulation.machine.cpus - self.simulation.present:
            self.others.plug(*absent)

    def _unmount(self, number: int) -> None:
        """Unmount a bank by hand."""
        if self.simulation.mounts and self.host.record.phase == "idle":
            name = sorted(self.simulation.mounts)[number % len(self.simulation.mounts)]
            self.simulation.mounts.pop(name).close()

    def _claim(self, cpus: set[int]) -> None:
        self.simulation.claim("machine.slice", *cpus)

    def _disclaim(self) -> None:
        self.simulation.siblings.clear()

    def _keep_busy(self, cpu: int) -> None:
        self.simulation.deadline_task(cpu)

    def _rest(self) -> None:
        self.simulation.tasks.clear()

    def _run_on_driver(self, number: int) -> None:
        driver = self.simulation.driver
        driver.enclave_runs = bool(driver.cpus) and number < 4
