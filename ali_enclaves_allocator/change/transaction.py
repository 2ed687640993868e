"""The transaction: carries a change out whole, or takes it back whole. The only writer of kernel settings.

There is one way back, the inverse of the steps in opposite order, for a failure and for a crash alike; and one way
to give back, for a smaller pool and for stop.
"""

import logging
from dataclasses import replace

from ali_enclaves_allocator.change.difference import Change
from ali_enclaves_allocator.change.ledger import Ledger, Phase
from ali_enclaves_allocator.change.steps import (
    AddPages,
    DissolveSlice,
    SetBank,
    SetCpu,
    SetCpusets,
    SetDriverCpus,
    Step,
)
from ali_enclaves_allocator.kernel.doors import Kernel
from ali_enclaves_allocator.model.errors import AllocatorError, KernelRefused, NotGivenBack
from ali_enclaves_allocator.model.pool import Pool, cpusets_with

log = logging.getLogger(__name__)


def carry_out(change: Change, kernel: Kernel, ledger: Ledger) -> None:
    """Carry out a change: take, commit, give back.

    What an earlier give-back left undone is tried again with this one; only a change that takes nothing may be
    carried out while there is any.

    Raises:
        AllocatorError: a step failed and everything taken was given back: the former pool stands. Its `outcome`
            says so, or names what could not be undone.
        NotGivenBack: the new pool stands, but some of what it no longer needs could not be given back.
    """
    former = ledger.record.pool
    left = ledger.record.steps if ledger.record.phase == "giving" else ()
    if left and change.take:  # it is done, or we would not be here, but the ledger could not be told
        raise KernelRefused("write the ledger", "it still names an earlier give-back")
    change = _with_cpusets(_decided(change, kernel), kernel, former)
    try:
        if change.take:
            _record(ledger, former, "taking", change.take)
        for step in change.take:
            log.debug("%s", step.describe())
            step.apply(kernel)
        give = (*left, *(_decide_give(step, kernel, former, change.pool) for step in change.give))
        _record(ledger, change.pool, "giving" if give else "idle", give)
    except Exception as error:
        _take_back(error, kernel, ledger)
        raise
    if give:
        _give(kernel, ledger)


def recover(kernel: Kernel, ledger: Ledger) -> str:
    """Bring the machine to what the ledger says, after a crash at any instruction. Return what was done.

    Raises:
        NotGivenBack: some of it is still refused by the kernel; the ledger keeps those steps.
    """
    if ledger.record.phase == "taking":
        left, _ = _unwind(kernel, ledger)
        if left:
            raise NotGivenBack(left, "all of an interrupted change")
        return "an interrupted change was found and undone"
    if ledger.record.phase == "giving":
        _give(kernel, ledger)
        return "an interrupted give-back was found and completed"
    return ""


def _decided(change: Change, kernel: Kernel) -> Change:
    """Decide every step of `take`, and note in the pool what the raises absorb."""
    take = tuple(step.decided(kernel) if isinstance(step, AddPages) else step for step in change.take)
    absorbed = {(step.node, step.page_kib): step.absorbed for step in take if isinstance(step, AddPages)}
    shares = tuple(
        replace(share, absorbed=share.absorbed + absorbed.get((share.node, share.page_kib), 0))
        for share in change.pool.shares
    )
    return replace(change, take=take, pool=replace(change.pool, shares=shares))


def _with_cpusets(change: Change, kernel: Kernel, former: Pool) -> Change:
    """Let the cpusets of cgroup v1 have back what the host gets, and note what they have of what goes offline."""
    offline = change.pool.offline_cpus & kernel.sysfs.online()
    lost = kernel.cpusets.having(offline) if offline else ()
    back = cpusets_with(former.cpusets, former.taken_cpus - change.pool.taken_cpus)
    return Change(
        pool=change.pool.noting(lost),
        take=(*([SetCpusets(lost, whole=False)] if lost else []), *change.take),
        give=(*change.give, *([SetCpusets(back, whole=True)] if back else [])),
    )


def _decide_give(step: Step, kernel: Kernel, former: Pool, pool: Pool) -> Step:
    """Decide a step of `give` while the banks still hold their pages."""
    if not isinstance(step, AddPages):
        return step
    held = kernel.banks.held(pool.lent_pages())
    banks = {bank for bank in (*former.banks, *pool.banks) if (bank.node, bank.page_kib) == (step.node, step.page_kib)}
    ours = sum(held.get(bank.name, 0) for bank in banks)
    return step.decided(kernel, ours, pool.pages(step.node, step.page_kib))


def _record(ledger: Ledger, pool: Pool, phase: Phase, steps: tuple[Step, ...]) -> None:
    """Write the ledger; a failure is an error like any other."""
    try:
        ledger.save(pool=pool, phase=phase, steps=steps)
    except OSError as error:
        raise KernelRefused.of("write the ledger", error) from error


def _take_back(error: Exception, kernel: Kernel, ledger: Ledger) -> None:
    """Undo a change that failed, and let its error say what became of that."""
    taken = ledger.record.phase == "taking"
    left, missing = _unwind(kernel, ledger)
    if isinstance(error, AllocatorError) and taken:
        error.outcome = f"could not undo: {'; '.join(left + missing)}" if left or missing else "all changes undone"


def _unwind(kernel: Kernel, ledger: Ledger) -> tuple[list[str], list[str]]:
    """Take back the steps that the ledger records. Return why some could not be, as `_run` does."""
    taken = ledger.record.steps if ledger.record.phase == "taking" else ()
    back = tuple(step.inverse(kernel) for step in reversed(taken))
    try:
        ledger.save(phase="giving", steps=back)
    except OSError as error:
        log.warning("cannot write the ledger: %s; undoing all the same", error.strerror)
    return _run(back, kernel, ledger)


def _give(kernel: Kernel, ledger: Ledger) -> None:
    """Carry out the give-back that the ledger records."""
    left, _ = _run(ledger.record.steps, kernel, ledger)
    if left:
        raise NotGivenBack(left, "all that the pool no longer needs")


def _run(steps: tuple[Step, ...], kernel: Kernel, ledger: Ledger) -> tuple[list[str], list[str]]:
    """Carry out every step, failing ones too late to matter to the rest. Return why some failed.

    What could not be given back stays in the ledger, for the next start to try again; so does what waits for a CPU
    that could not come online: without its slice the host would miss it for ever (`kernel/cpuset.py`), and no cpuset
    takes it yet. What could not be restored, told second, does not: it is drift, which a start mends with what is
    there then, and a stop need not.
    """
    left: list[Step] = []
    reasons, missing = list[str](), list[str]()
    for step in steps:
        if isinstance(step, DissolveSlice | SetCpusets) and any(isinstance(other, SetCpu) for other in left):
            left.append(step)
            continue
        log.debug("%s", step.describe())
        try:
            step.apply(kernel)
        except AllocatorError as error:
            if _restores(step):
                log.warning("cannot restore the former pool: %s", error.what())
                missing.append(error.what())
            else:
                left.append(step)
                reasons.append(error.what())
    try:
        ledger.save(phase="giving" if left else "idle", steps=tuple(left))
    except OSError as error:
        log.warning("cannot write the ledger: %s; the next start repeats the give-back", error.strerror)
    return reasons, missing


def _restores(step: Step) -> bool:
    """Tell whether a step on the way back takes from the host again, for the pool that stood before."""
    match step:
        case SetBank(present=True) | SetCpu(online=False):
            return True
        case SetDriverCpus():
            return bool(step.cpus)
    return False
