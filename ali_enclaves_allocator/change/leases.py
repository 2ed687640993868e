"""Lending and taking back: the steps of one lease, recorded before they are done."""

import logging
import os
from collections.abc import Iterable
from dataclasses import replace

from ali_enclaves_allocator.change.displaced import tell_displaced
from ali_enclaves_allocator.change.ledger import Ledger
from ali_enclaves_allocator.change.steps import DissolveSlice, SetBank, SetCpu, SetCpusets
from ali_enclaves_allocator.kernel.doors import Kernel
from ali_enclaves_allocator.model.errors import AllocatorError, CpuRefused, KernelRefused
from ali_enclaves_allocator.model.pool import Bank, Lease, Pool, cpusets_with
from ali_enclaves_allocator.model.refusals import HolderGone, OnlineImpossible

log = logging.getLogger(__name__)


def lend(lease: Lease, kernel: Kernel, ledger: Ledger) -> tuple[Lease, int]:
    """Carry a lease out. Return it as it stands, and the fd of its memory, which is the caller's.

    The bank is settled later: what is left of it must be cleared, which takes long and is no matter of this lease. The
    ledger knows the lease before anything is done, and calls it granted before anybody is answered. The scope comes
    last, because the end of a scope is the end of those in it, and a caller that is refused lives on.

    Raises:
        AllocatorError: a step failed, and the lease was taken back.
    """
    hosts = lease.cpus & kernel.sysfs.online()
    _save(ledger, ledger.record.pool.with_lease(lease).noting(kernel.cpusets.having(hosts) if hosts else ()))
    pool, memory = ledger.record.pool, -1
    granted = replace(lease, granted=True)
    try:
        memory = kernel.banks.carve(_bank(pool, lease), lease)
        _take_cpus(lease, pool, kernel)
        _save(ledger, pool.with_lease(granted))
        _require_alive(kernel, lease)
        kernel.scopes.start(lease)
        _require_alive(kernel, lease)
    except Exception as error:
        if memory >= 0:
            os.close(memory)
        outcome = _taken_back(lease, kernel, ledger)
        refused = KernelRefused.of("lend", error) if isinstance(error, OSError) else error
        if isinstance(refused, AllocatorError):
            refused.outcome = outcome
        raise refused from error
    return granted, memory


def end(lease: Lease, kernel: Kernel, ledger: Ledger) -> None:
    """End a lease: its tasks, then its CPUs. It can be done twice.

    Its memory stays in its file, which nobody's lease is any more, until `settle` holds it again: to clear pages takes
    long. With `offline: leased` its CPUs are the host's again at the end.

    Raises:
        AllocatorError: a step was refused; the lease stays in the ledger, no longer granted, to be tried again.
    """
    if lease in ledger.record.pool.leases and lease.granted:
        _save(ledger, ledger.record.pool.with_lease(replace(lease, granted=False)))
    rest = ledger.record.pool.without_lease(lease.id)
    try:
        kernel.scopes.stop(lease)
        if lease.online:
            ours = rest.offline_cpus | kernel.scopes.cpus()  # any other the host may never have given
            _empty_partition(lease.cpus & ours & kernel.sysfs.online(), rest, kernel)
            _shrink_partition(rest, kernel)
        rest = _let_go(_bank(ledger.record.pool, lease), rest, kernel)
        _return_cpus(lease, rest, kernel)
        _save(ledger, rest.noting(()))
    except (AllocatorError, OSError) as error:
        step = f"take back lease {lease.describe()}"
        refused = KernelRefused.of(step, error) if isinstance(error, OSError) else error
        refused.outcome = "the lease has ended, and what it still holds is tried again"
        raise refused from error


def sweep(kernel: Kernel, ledger: Ledger) -> tuple[list[Lease], list[AllocatorError]]:
    """Take back every lease whose holder is gone or was never answered, and mend what the others need.

    Return the leases that were taken back, and why something could not be done: that is tried again later.
    """
    ended, refused = [], list[AllocatorError]()
    for lease in ledger.record.pool.leases:
        if lease.granted and kernel.processes.alive(lease.holder):
            continue
        try:
            end(lease, kernel, ledger)
            ended.append(lease)
        except AllocatorError as error:
            refused.append(error)
    try:
        _mend(ledger.record.pool, kernel)
    except OSError as error:
        refused.append(KernelRefused.of("mend the leases", error))
    except AllocatorError as error:
        refused.append(error)
    return ended, refused


def settle(pool: Pool, kernel: Kernel, seconds: float | None = None) -> bool:
    """Hold again what banks are short of, and cut what a holder has beyond its lease.

    Return whether all was done that can be done, which in so many seconds it need not be.

    Raises:
        KernelRefused: the kernel refused a step.
    """
    try:
        return all(
            kernel.banks.settled(bank, pool.lent_pages(bank))
            or kernel.banks.settle(bank, pool.lent_pages(bank), seconds)
            for bank in pool.banks
        )
    except OSError as error:
        raise KernelRefused.of("hold the pool's pages", error) from error


def is_settled(pool: Pool, kernel: Kernel) -> bool:
    """Tell whether `settle` has nothing to do."""
    return all(kernel.banks.settled(bank, pool.lent_pages(bank)) for bank in pool.banks)


def _mend(pool: Pool, kernel: Kernel) -> None:
    """Settle the banks, confine the CPUs that are lent, and start the scopes that a crash came before."""
    settle(pool, kernel)
    wanted = _set_apart(pool, kernel)
    if not wanted <= kernel.scopes.confined():
        kernel.scopes.confine(wanted)
    for lease in pool.leases:  # a process can be in the scope of one of its leases only
        if lease.granted and not any(kernel.scopes.stands(its) for its in pool.leases if its.holder == lease.holder):
            kernel.scopes.start(lease)


def _take_cpus(lease: Lease, pool: Pool, kernel: Kernel) -> None:
    """Take those of the lease's CPUs offline that the host had, and bring all up again where no host task can enter."""
    if hosts := lease.cpus & kernel.sysfs.online():
        tell_displaced(hosts, pool.offline_cpus | pool.lent_cpus, kernel)
        _set_cpus(hosts, False, kernel)
    if lease.online:
        kernel.scopes.confine(_set_apart(pool, kernel) | lease.cpus)
        _set_cpus(lease.cpus, True, kernel)


def _return_cpus(lease: Lease, rest: Pool, kernel: Kernel) -> None:
    """Give the host the CPUs that it has while nobody leases them, and with the last of the slice's that slice.

    The slice may be left of an earlier lease on the same CPUs. One that was unplugged meanwhile need not come back.
    """
    hosts = lease.cpus - rest.offline_cpus
    _set_cpus(hosts - kernel.sysfs.online(), True, kernel)
    SetCpusets(cpusets_with(rest.cpusets, hosts), whole=True).apply(kernel)
    if hosts and not rest.lent_cpus and not kernel.scopes.cpus() & rest.offline_cpus:
        DissolveSlice().apply(kernel)


def _let_go(bank: Bank, rest: Pool, kernel: Kernel) -> Pool:
    """Drop a bank that only leases kept where the pool's pages are not to be held. Return the pool without it."""
    if rest.config is None or rest.config.hold_memory or bank in rest.leased_banks:
        return rest
    kernel.banks.settle(bank, rest.lent_pages(bank))
    SetBank(bank, present=False).apply(kernel)
    return replace(rest, banks=tuple(other for other in rest.banks if other != bank))


def _set_cpus(cpus: Iterable[int], online: bool, kernel: Kernel) -> None:
    for cpu in sorted(cpus):
        SetCpu(cpu, online).apply(kernel)


def _empty_partition(lent: frozenset[int], rest: Pool, kernel: Kernel) -> None:
    """Take CPUs of the partition offline.

    Linux 6.12 refuses the last one of a partition: it takes the bandwidth that it keeps for fair tasks on every CPU
    (`dl_bw_manage`, kernel/sched/deadline.c) for that of deadline tasks. So the partition opens, and the CPU goes by
    way of the host, which has it for a moment when no lease has.
    """
    for cpu in sorted(lent):
        try:
            SetCpu(cpu, False).apply(kernel)
        except CpuRefused:
            if _set_apart(rest, kernel) & kernel.sysfs.online():
                raise
            kernel.scopes.confine(frozenset())
            SetCpu(cpu, False).apply(kernel)


def _shrink_partition(rest: Pool, kernel: Kernel) -> None:
    """Take offline CPUs out of the partition. That another cgroup overlaps what stays in it is drift of that."""
    stays = _set_apart(rest, kernel)
    try:
        kernel.scopes.confine(stays)
    except OnlineImpossible as error:
        if not stays:
            raise
        log.warning("%s", error.what())


def _set_apart(pool: Pool, kernel: Kernel) -> frozenset[int]:
    """Return the CPUs that belong in the partition: of a lease whose end was interrupted, what it still has there.

    The rest of those are the host's again, or will be: what is online must not enter.
    """
    granted = (lease.cpus for lease in pool.leases if lease.online and lease.granted)
    return frozenset[int]().union(*granted) | pool.lent_cpus & kernel.scopes.cpus()


def _taken_back(lease: Lease, kernel: Kernel, ledger: Ledger) -> str:
    """Take back a lease that failed. Return what became of that."""
    try:
        end(lease, kernel, ledger)
    except AllocatorError as error:
        log.error("lease %s failed and could not be taken back: %s", lease.id, error.what())
        return f"could not undo: {error.what()}"
    return "nothing is lent"


def _require_alive(kernel: Kernel, lease: Lease) -> None:
    """Check that the holder's pid is the holder's: systemd moves whoever has it into the scope.

    Raises:
        HolderGone: the holder has ended.
    """
    if not kernel.processes.alive(lease.holder):
        raise HolderGone(lease.holder.pid)


def _bank(pool: Pool, lease: Lease) -> Bank:
    return next(bank for bank in pool.banks if bank.name == lease.bank)


def _save(ledger: Ledger, pool: Pool) -> None:
    try:
        ledger.save(pool=pool, phase=ledger.record.phase, steps=ledger.record.steps)
    except OSError as error:
        raise KernelRefused.of("write the ledger", error) from error
