"""A host from its boot to its end: what must hold of it at every moment, and of every answer."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ali_enclaves_allocator.change.leases import is_settled, settle
from ali_enclaves_allocator.change.steps import AddPages, DissolveSlice, SetBank, SetCpu, SetDriverCpus
from ali_enclaves_allocator.model.config import load
from ali_enclaves_allocator.model.errors import AllocatorError, NotGivenBack
from ali_enclaves_allocator.model.pool import Lease, Pool
from tests.machines import Machine
from tests.sim.effects import Died
from tests.soak.others import Key
from tests.soak.stage import Stage, Trouble

FORMER_STANDS = {"nothing was changed", "all changes undone"}
NOTHING_LENT = {"nothing was changed", "nothing is lent"}


class World(Stage):
    """One machine, the processes of the allocator on it, and the truth of their answers."""

    def __init__(self, machine: Machine, directory: Path, crowded: bool) -> None:
        super().__init__(machine, directory, crowded)
        self.simulation.effects.watch = self.check_always

    def start(self) -> None:
        """Bring the file into force."""
        before, calm = self.pool, self._nothing_in_the_way()
        try:
            self.host.start()
        except Died:
            return
        except NotGivenBack:
            assert not calm, "nothing was in the way of giving back"
            return
        except AllocatorError as error:
            if error.outcome in FORMER_STANDS:
                assert _without_leases(self.pool) == _without_leases(before), error
            else:  # an undo takes CPUs from the host again, where a deadline task may be by now
                assert self.troubled or self.simulation.tasks, error
            return
        config, _ = load(self.host.config_path.read_bytes(), "")
        assert self.pool.config == config
        assert self.pool.memory_mib >= config.memory_mib
        assert len(self.pool.cpus) == len(config.cpu_pool or ()) or len(self.pool.cpus) == config.cpu_count
        assert self.troubled or self.simulation.tasks or all(lease.granted for lease in self.pool.leases)
        if calm and not self.simulation.siblings and not self._lacks_a_bank():
            assert self.drift == (), self.drift

    def _nothing_in_the_way(self) -> bool:
        """Tell whether a process must succeed in all that the machine allows."""
        theirs = (
            self.simulation.tasks or self.simulation.driver.enclave_runs or self.others.stolen or self.others.blurred
        )
        return not (self.troubled or theirs)

    def _lacks_a_bank(self) -> bool:
        """Tell whether a leased bank was unmounted by hand, which only the end of its leases mends."""
        return any(bank.name not in self.simulation.mounts for bank in self.pool.leased_banks)

    def leave(self) -> None:
        """Give everything back."""
        calm = self._nothing_in_the_way()
        try:
            self.host.give_back()
        except Died:
            return
        except AllocatorError as error:
            assert not calm, error
            return
        living = {lease.id for lease in self.pool.leases if self.simulation.kernel.processes.alive(lease.holder)}
        assert living == {lease.id for lease in self.pool.leases} or not calm
        assert self.pool.cores == tuple(sorted(self.pool.leased_cores)), "what no lease holds is given back"
        assert self.pool.banks == self.pool.leased_banks

    def waited_for(self) -> list[str]:
        """Return the scopes that ended and were waited for."""
        return sorted(self.simulation.awaited - self.simulation.scopes.keys())

    def scope_ended(self) -> None:
        """Let the unit run that waited for the end of a scope."""
        for name in self.waited_for():
            self.simulation.awaited.discard(name)
            try:
                self.host.scope_ended()
            except Died:
                pass
            finally:
                self.simulation.effects.restart()

    def acquire(self, troubles: list[Trouble], **asked: Any) -> None:
        """Lend as the lender does: settle, look, choose, lend."""
        pool = self.pool
        pid = self.simulation.spawn()
        if self.host.record.phase != "idle" or not pool.banks:
            return
        self.plan([])
        self._try(lambda: self.host.process(lambda kernel, _: settle(pool, kernel)))
        if self.drift:
            return
        self.plan(troubles)
        try:
            lease = self.host.lend(pid, **asked)
        except Died:
            return
        except AllocatorError as error:
            if error.outcome in NOTHING_LENT:
                assert f"{pid:016x}" not in {lease.id for lease in self.pool.leases}, error
                assert f"evm-{pid:016x}.scope" not in self.simulation.scopes, error
                assert self.simulation.processes[pid].alive or self.troubled, "who is refused lives on"
            else:
                assert self.troubled, error
            return
        assert lease in self.pool.leases
        assert lease.granted
        if self.simulation.processes[pid].alive:
            self._require_lent(lease)

    def _require_lent(self, lease: Lease) -> None:
        """Check that a lease is there."""
        assert self.simulation.kernel.scopes.stands(lease)
        assert self.simulation.mounts[lease.bank].files[f"lease-{lease.id}"] == [lease.node] * lease.pages
        if lease.online:
            assert lease.cpus <= self.simulation.confined() & self.simulation.online
        else:
            assert not lease.cpus & self.simulation.online

    def release(self, number: int) -> None:
        """Take a lease back."""
        leases = self.pool.leases
        if leases:
            lease = leases[number % len(leases)]
            if self._try(lambda: self.host.take_back(lease)):
                assert lease.id not in {left.id for left in self.pool.leases}
                assert not self.simulation.kernel.scopes.stands(lease)
                assert self.drift or is_settled(self.pool, self.simulation.kernel)

    def _try(self, work: Callable[[], None]) -> bool:
        """Do what may be refused. Return whether it was not."""
        try:
            work()
        except (Died, AllocatorError):
            return False
        return True

    # What holds at every moment

    def check_always(self) -> None:
        """Check what holds even in the middle of a change."""
        simulation = self.simulation
        assert min(simulation.machine.cpus) in simulation.hosts_cpus(), "the host keeps the core of CPU 0"
        assert not simulation.lost
        assert not simulation.driver.cpus & simulation.online, "a CPU that the driver may have given an enclave"
        for name, mount in simulation.mounts.items():
            assert mount.used <= mount.size, name
            assert len({node for file in mount.files.values() for node in file}) <= 1, "pages of another node"

    def check(self) -> None:
        """Check what holds between two processes."""
        self.others.blur_what_surplus_keeps()
        self.check_always()
        self._check_ledger_explains()
        pool = self.pool
        cores = [core for lease in pool.leases for core in lease.cores]
        assert len(cores) == len(set(cores)), "a core is lent twice"
        assert set(cores) <= set(pool.cores)
        for bank in pool.banks:
            assert pool.free_pages(bank) >= 0, "a page is lent twice"
        if self._is_calm():
            self.host.origin = self.others.alone.state()
            self.host.assert_pool_stands()

    def _is_calm(self) -> bool:
        """Tell whether the machine must show the ledger's pool exactly."""
        idle = self.host.record.phase == "idle" and all(lease.granted for lease in self.pool.leases)
        alive = all(self.simulation.kernel.scopes.stands(lease) for lease in self.pool.leases)
        absorbed = any(share.absorbed for share in self.pool.shares)  # theirs, and not as on the twin until given back
        loose = self.pool.config and not self.pool.config.hold_memory  # free, so anybody's
        whole = not loose and not self.shrunk & {lease.id for lease in self.pool.leases}
        as_made = not absorbed and not self.others.stolen and not self.others.blurred
        settled = is_settled(self.pool, self.simulation.kernel)  # else the process died before an end was all done
        return idle and alive and whole and as_made and settled and not self.drift

    def _check_ledger_explains(self) -> None:
        """Check that all that others did not do is in the ledger."""
        record, alone = self.host.record, self.others.alone
        steps = record.steps
        driver = {cpu for step in steps if isinstance(step, SetDriverCpus) for cpu in (*step.cpus, *step.former)}
        cpus = record.pool.cpus | driver | {step.cpu for step in steps if isinstance(step, SetCpu)}
        banks = {*record.pool.banks, *(step.bank for step in steps if isinstance(step, SetBank))}
        assert alone.online - self.simulation.online <= cpus, "CPUs that are offline for no reason"
        assert self.simulation.online <= alone.online, "what others took offline stays so"
        if self.simulation.partition.valid:
            assert self.simulation.partition.cpus <= cpus
        elif self.simulation.partition.cpus:
            assert record.pool.cores or any(isinstance(step, DissolveSlice) for step in steps)
        assert self.simulation.driver.cpus <= cpus
        assert self.simulation.mounts.keys() <= {bank.name for bank in banks}
        assert self.simulation.scopes.keys() <= {f"evm-{lease.id}.scope" for lease in record.pool.leases}
        for key in self.others.used.keys() - self.others.blurred - self.others.stolen.keys():
            share = record.pool.share(*key)
            asked = sum(
                abs(step.count) for step in steps if isinstance(step, AddPages) and (step.node, step.page_kib) == key
            )
            ours = sum(
                sum(map(len, mount.files.values())) for mount in self.simulation.mounts.values() if _is_at(mount, key)
            )
            assert self.simulation.counts(*key).in_use == self.others.used[key] + ours, "others have what they use"
            more = self.simulation.counts(*key).persistent - alone.counts(*key).persistent
            assert 0 <= more <= share.pages + share.absorbed + asked + 8, (key, more)

    # The end

    def end(self) -> None:
        """Let everybody end, and check that nothing of ours is left."""
        others, simulation = self.others, self.simulation
        others.return_stolen()
        simulation.tasks.clear()
        simulation.siblings.clear()
        simulation.driver.enclave_runs = False
        for pid, process in simulation.processes.items():
            if process.alive:
                simulation.kill(pid)
        self.plan([])
        self.host.give_back()
        for key in others.blurred:
            assert simulation.counts(*key).in_use == others.used.get(key, 0)
        state, alone = self.host.state, others.alone.state()
        if others.blurred:
            state = replace(state, pages=alone.pages, available_kib=alone.available_kib)
        assert state == alone
        assert not (self.host.directory / "ledger.json").exists()


def _is_at(mount: Any, key: Key) -> bool:
    """Tell whether a mount's pages are of this node and size."""
    return mount.pages.page_kib == key[1] and any(file[:1] == [key[0]] for file in mount.files.values())


def _without_leases(pool: Pool) -> Pool:
    """Return what a refused file leaves as it is: leases, and banks that only they kept, may have ended before."""
    return replace(pool, leases=(), banks=())
