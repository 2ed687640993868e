"""Lending and taking back: the steps of one lease, recorded before they are done."""

import logging
import os
from dataclasses import replace

from ali_enclaves_allocator.change.ledger import Ledger
from ali_enclaves_allocator.change.steps import SetCpu
from ali_enclaves_allocator.kernel.doors import Kernel
from ali_enclaves_allocator.model.errors import AllocatorError, KernelRefused, PagesTaken
from ali_enclaves_allocator.model.pool import Bank, Lease, Pool

log = logging.getLogger(__name__)


def lend(lease: Lease, kernel: Kernel, ledger: Ledger) -> tuple[Lease, int]:
    """Carry a lease out. Return it as it stands, and the fd of its memory, which is the caller's.

    The ledger knows the lease before anything is done, and calls it granted before anybody is answered.

    Raises:
        AllocatorError: a step failed, and the lease was taken back.
    """
    memory = -1
    try:
        _save(ledger, ledger.record.pool.with_lease(lease))
        pool = ledger.record.pool
        bank = _bank(pool, lease)
        memory = kernel.banks.carve(bank, lease, pool.free_pages(bank))
        _require_full(kernel, bank)
        if lease.online:
            kernel.scopes.confine(pool.lent_cpus)
            for cpu in sorted(lease.cpus):
                SetCpu(cpu, online=True).apply(kernel)
        kernel.scopes.start(lease)
        granted = replace(lease, granted=True)
        _save(ledger, pool.with_lease(granted))
    except (OSError, AllocatorError) as error:
        if memory >= 0:
            os.close(memory)
        refused = error if isinstance(error, AllocatorError) else KernelRefused("lend", error.strerror or str(error))
        refused.outcome = _taken_back(lease, kernel, ledger)
        raise refused from error
    return granted, memory


def take_back(lease: Lease, kernel: Kernel, ledger: Ledger) -> None:
    """End a lease: its tasks, then its CPUs, then its memory. It can be done twice.

    Raises:
        AllocatorError: a step was refused; the lease stays in the ledger, no longer granted, to be tried again.
    """
    pool = ledger.record.pool.with_lease(replace(lease, granted=False))
    _save(ledger, pool)
    rest = pool.without_lease(lease.id)
    try:
        kernel.scopes.stop(lease)
        if lease.online:
            for cpu in sorted(lease.cpus & kernel.sysfs.online()):
                SetCpu(cpu, online=False).apply(kernel)
            kernel.scopes.confine(rest.lent_cpus)
        bank = _bank(pool, lease)
        kernel.banks.reclaim(bank, lease.id, rest.free_pages(bank))
    except OSError as error:
        raise KernelRefused(f"take back lease {lease.describe()}", error.strerror or str(error)) from error
    _save(ledger, rest)


def sweep(kernel: Kernel, ledger: Ledger) -> list[Lease]:
    """Take back every lease whose holder is gone or was never answered, and confine the others' CPUs again.

    Return the leases that were taken back.

    Raises:
        AllocatorError: a step was refused; the lease stays in the ledger, to be tried again.
    """
    dead = [
        lease for lease in ledger.record.pool.leases if not (lease.granted and kernel.processes.alive(lease.holder))
    ]
    for lease in dead:
        take_back(lease, kernel, ledger)
    lent = ledger.record.pool.lent_cpus
    if not lent <= kernel.scopes.confined():
        kernel.scopes.confine(lent)
    return dead


def _taken_back(lease: Lease, kernel: Kernel, ledger: Ledger) -> str:
    """Take back a lease that failed. Return what became of that."""
    try:
        take_back(lease, kernel, ledger)
    except AllocatorError as error:
        return f"could not undo: {error.what()}"
    return "nothing is lent"


def _require_full(kernel: Kernel, bank: Bank) -> None:
    """Check that the hold file got its pages again."""
    held = kernel.banks.held().get(bank.name, 0)
    if held < bank.pages:
        raise PagesTaken(bank.node, bank.page_kib, held, bank.pages)


def _bank(pool: Pool, lease: Lease) -> Bank:
    return next(bank for bank in pool.banks if bank.name == lease.bank)


def _save(ledger: Ledger, pool: Pool) -> None:
    try:
        ledger.save(pool=pool, phase=ledger.record.phase, steps=ledger.record.steps)
    except OSError as error:
        raise KernelRefused("write the ledger", error.strerror or str(error)) from error
