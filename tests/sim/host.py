"""A host: a simulated machine, its configuration file, and allocator processes that come and go on it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ali_enclaves_allocator import afterwards, line
from ali_enclaves_allocator.change import leases as leases_
from ali_enclaves_allocator.change.ledger import Ledger, Phase, Record, read
from ali_enclaves_allocator.change.steps import Step
from ali_enclaves_allocator.change.transaction import recover
from ali_enclaves_allocator.kernel.doors import Kernel
from ali_enclaves_allocator.model.errors import AllocatorError
from ali_enclaves_allocator.model.lease import Request, grant
from ali_enclaves_allocator.model.pool import Bank, Lease, Pool
from ali_enclaves_allocator.model.topology import PageCounts
from tests.machines import Machine
from tests.sim.effects import Effects
from tests.sim.kernel import Simulation, State

BOOT_ID = "6f3c1a52-0000-4000-8000-000000000001"

Work = Callable[[Kernel, Ledger], object]


class SimLedger(Ledger):
    """The ledger on a real file; each replacement of it is one effect, before which a torn draft lies about."""

    def __init__(self, directory: Path, boot_id: str, effects: Effects) -> None:
        super().__init__(directory, boot_id)
        self._draft = directory / "ledger.new"
        self._effects = effects

    def save(self, *, pool: Pool | None = None, phase: Phase = "idle", steps: tuple[Step, ...] = ()) -> None:
        """Replace the file, unless the plan of effects has it otherwise."""
        self._draft.write_bytes(b'{"boot_id": "6f3c1')
        with self._effects.effect(f"ledger {phase}"):
            super().save(pool=pool, phase=phase, steps=steps)


class Host:
    """One machine from its boot, with other programs on it from `settle` on."""

    def __init__(self, machine: Machine, directory: Path) -> None:
        self.simulation = Simulation(machine)
        self.config_path = directory / "allocator.yaml"
        self.directory = directory
        self.origin = self.simulation.state()
        self.done: list[str] = []
        """The effects of the last process, by name."""

    @property
    def effects(self) -> Effects:
        """What the next process will do, and what will go wrong with it."""
        return self.simulation.effects

    @property
    def state(self) -> State:
        """The machine now."""
        return self.simulation.state()

    @property
    def record(self) -> Record:
        """What the ledger's file says now."""
        return read(self.directory / "ledger.json", BOOT_ID)

    def settle(self) -> None:
        """Call the machine as it is now the one that must come back."""
        self.origin = self.state

    def configure(self, **keys: Any) -> None:
        """Write allocator.yaml: JSON is YAML."""
        self.config_path.write_text(json.dumps({"host_memory_mib": 64} | keys))

    def start(self) -> None:
        """Bring the file into force in a process of its own."""

        def bring_into_force(kernel: Kernel, ledger: Ledger) -> None:
            line.end_dead_leases(kernel, ledger)
            line.bring_into_force(self.config_path, kernel, ledger)

        self.process(bring_into_force)

    def give_back(self) -> None:
        """Give everything back in a process of its own."""
        self.process(line.leave)

    def scope_ended(self) -> int:
        """Let the unit run that waited for the end of a scope. Return its exit status."""
        ledger = SimLedger(self.directory, BOOT_ID, self.effects)
        return afterwards.give_back(self.directory, self.simulation.kernel, ledger)

    def recover(self) -> None:
        """Finish or undo what was interrupted, and no more."""
        self.process(recover)

    def lend(self, pid: int, **asked: Any) -> Lease:
        """Lend to a process and settle, by allocators that then end. The holder's fd of the memory is closed."""
        leases: list[Lease] = []

        def lend_once(kernel: Kernel, ledger: Ledger) -> None:
            uid = self.simulation.processes[pid].uid
            holder = kernel.processes.holder(pid, uid, uid)
            assert holder
            request = Request(**{"memory_mib": 16, "cpu_count": 2, **asked})
            chosen = grant(request, ledger.record.pool)
            lease = Lease(
                id=f"{pid:016x}",
                name=request.name,
                cores=chosen.cores,
                bank=chosen.bank.name,
                node=chosen.bank.node,
                page_kib=chosen.bank.page_kib,
                pages=chosen.pages,
                online=request.online,
                holder=holder,
                since=1.5,
                annotations=request.annotations,
            )
            lease, memory = leases_.lend(lease, kernel, ledger)
            assert os.fstat(memory).st_size == lease.memory_mib << 20
            os.close(memory)
            leases.append(lease)

        def settled() -> None:
            done = self.done
            self.process(lambda kernel, ledger: leases_.settle(ledger.record.pool, kernel))
            self.done = done

        try:
            self.process(lend_once)
        except AllocatorError:
            settled()
            raise
        settled()
        return leases[0]

    def take_back(self, lease: Lease) -> None:
        """Take a lease back, by an allocator that then ends."""

        def taken_back(kernel: Kernel, ledger: Ledger) -> None:
            leases_.end(lease, kernel, ledger)
            leases_.settle(ledger.record.pool, kernel)

        self.process(taken_back)

    def process(self, work: Work) -> None:
        """Run an allocator until it ends, one way or the other; its lock goes with it."""
        ledger = SimLedger(self.directory, BOOT_ID, self.effects)
        try:
            ledger.open()
            work(self.simulation.kernel, ledger)
        finally:
            ledger.close()
            self.done = self.effects.names
            self.effects.restart()

    def assert_pool_stands(self) -> None:
        """Check that the machine differs from its origin by exactly the pool that the ledger records."""
        record, origin, state = self.record, self.origin, self.state
        pool = record.pool
        assert (record.phase, record.steps) == ("idle", ())
        assert state.online == origin.online - pool.offline_cpus
        assert state.driver == pool.driver_cpus
        assert state.partition.valid == bool(pool.lent_cpus)
        assert state.partition.cpus == pool.lent_cpus or not pool.lent_cpus
        assert pool.taken_cores or not state.partition.cpus, "the slice goes with the last CPU that the host misses"
        assert pool.config is None or pool.config.hold_memory or pool.banks == pool.leased_banks
        assert not state.lost
        assert state.scopes == {f"evm-{lease.id}.scope" for lease in pool.leases}
        assert not self.simulation.spilled
        assert state.mounted == {bank.name: files_of(bank, pool) for bank in pool.banks}
        assert state.cpusets == {path: its - pool.taken_cpus for path, its in origin.cpusets.items()}
        noted = {path: its & pool.taken_cpus for path, its in origin.cpusets.items() if its & pool.taken_cpus}
        assert {cpuset.path: set(cpuset.cpus) for cpuset in pool.cpusets} == noted
        assert state.reserved == origin.reserved
        for key, before in origin.pages.items():
            share, ours = pool.share(*key), pool.pages(*key)
            assert share.pages == ours
            loose = ours - sum(bank.pages for bank in pool.banks if (bank.node, bank.page_kib) == key)
            assert not loose or (pool.config and not pool.config.hold_memory)
            wanted = PageCounts(before.total + ours, before.free + loose, before.surplus - share.absorbed)
            assert state.pages[key] == wanted, key
        for node, available in origin.available_kib.items():
            assert state.available_kib[node] == available - sum(
                share.pages * share.page_kib for share in pool.shares if share.node == node
            )

    def assert_untouched(self) -> None:
        """Check that the machine is its origin again, and that no ledger is left."""
        assert self.state == self.origin
        assert self.record == Record(BOOT_ID)
        assert not (self.directory / "ledger.json").exists()


def files_of(bank: Bank, pool: Pool) -> dict[str, tuple[int, ...]]:
    """Return the files of a bank as they must be: what each lease has, and the rest in the hold file."""
    leases = {f"lease-{lease.id}": (bank.node,) * lease.pages for lease in pool.leases if lease.bank == bank.name}
    return {"hold": (bank.node,) * pool.free_pages(bank), **leases}
