"""The line: from allocator.yaml to the pool, in the order in which it happens.

Everything is validated and chosen before the first write; only `carry_out` writes.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from ali_enclaves_allocator.change.difference import Change, difference
from ali_enclaves_allocator.change.displaced import tell_displaced
from ali_enclaves_allocator.change.leases import sweep
from ali_enclaves_allocator.change.ledger import Ledger
from ali_enclaves_allocator.change.transaction import carry_out, recover
from ali_enclaves_allocator.kernel.doors import Kernel
from ali_enclaves_allocator.model.config import Config, ConfigInvalid, load
from ali_enclaves_allocator.model.errors import (
    AllocatorError,
    ConfigUnreadable,
    KernelRefused,
    Misfit,
    NotGivenBack,
    ShortGrant,
)
from ali_enclaves_allocator.model.events import (
    LEASE_ENDED,
    POOL_GIVEN_BACK,
    RECOVERED,
    REFUSED,
)
from ali_enclaves_allocator.model.plan import Plan, choose
from ali_enclaves_allocator.model.pool import Lease, Pool
from ali_enclaves_allocator.model.remarks import remarks
from ali_enclaves_allocator.model.source import Source
from ali_enclaves_allocator.model.yamltext import MAX_BYTES

log = logging.getLogger(__name__)


def end_dead_leases(kernel: Kernel, ledger: Ledger) -> None:
    """Take back the leases whose holders ended while no daemon watched. What is refused is tried again later.

    Raises:
        NotGivenBack: an interrupted change could not be finished first.
    """
    _recover(kernel, ledger)
    ended, refused = sweep(kernel, ledger)
    for lease in ended:
        log.info("lease %s (%s) ended: its holder is gone", lease.describe(), lease.id, extra=LEASE_ENDED)
    for error in refused:
        log.error("%s", error, extra=REFUSED)


def bring_into_force(path: Path, kernel: Kernel, ledger: Ledger) -> None:
    """Bring the pool that the file asks for into being, or change nothing.

    What a crash interrupted is finished first: a file that is refused must not keep a half-made change.
    Free memory may be too scattered for hugepages, which only asking tells: a node that granted fewer pages counts
    from then on as having no more, and the choice is made anew. It ends where no other nodes fit.

    Raises:
        AllocatorError: the file is refused, nothing fits, or the kernel refused; the former pool stands.
    """
    _recover(kernel, ledger)
    config, source = read_file(path)
    room_kib: dict[int, int] = {}
    short: ShortGrant | None = None
    while True:
        try:
            change = propose(config, source, kernel, ledger.record.pool, room_kib)
        except AllocatorError as error:
            raise short or error from None
        _announce(change, config, kernel)
        try:
            return _carry_out(change, kernel, ledger)
        except ShortGrant as error:
            short = short or error
            if ledger.record.phase != "idle" or error.node in room_kib:
                raise short from None
            log.warning("%s; trying with that, and with more of other nodes", error.what(), extra=REFUSED)
            had = change.pool.pages(error.node, error.page_kib) - (error.wanted - error.granted)
            room_kib[error.node] = had * error.page_kib


def read_file(path: Path) -> tuple[Config, Source]:
    """Read and validate the configuration file.

    Raises:
        ConfigUnreadable: there is no such file, or it cannot be read.
        ConfigInvalid: its text is refused; names every line.
    """
    try:
        with path.open("rb") as file:
            return load(file.read(MAX_BYTES + 1), str(path))
    except OSError as error:
        raise ConfigUnreadable(str(path), error.strerror or str(error), error.errno or 0) from error


def propose(
    config: Config, source: Source, kernel: Kernel, pool: Pool, room_kib: Mapping[int, int] | None = None
) -> Change:
    """Return the steps from the pool that stands to the one the file asks for. Reads the machine, writes nothing.

    `room_kib` is what some nodes are known to have at most.

    Raises:
        ConfigInvalid: a value does not suit this machine; names its line.
        AllocatorError: the machine cannot give what is asked.
    """
    try:
        plan = choose(config, kernel.topology(pool).within(room_kib or {}), pool)
        sight = kernel.sight(pool, [plan.page_kib])
    except Misfit as misfit:
        raise ConfigInvalid([source.problem(misfit.key, misfit.message)]) from misfit
    except OSError as error:
        by_root = "; only root may, while a pool stands" if isinstance(error, PermissionError) else ""
        raise KernelRefused("read the machine", f"{error.filename}: {error.strerror}{by_root}") from error
    return difference(pool, sight, plan, config)


def give_back(kernel: Kernel, ledger: Ledger) -> None:
    """Give everything back to the host that no living holder's lease holds.

    What was refused before, and is again, keeps nothing else from being given back.

    Raises:
        NotGivenBack: the kernel refused some of it.
    """
    refused = None
    try:
        end_dead_leases(kernel, ledger)
    except NotGivenBack as error:
        refused = error
    pool = ledger.record.pool
    config = pool.config if pool.leases else None
    change = difference(pool, kernel.sight(pool), _leased_plan(pool), config)
    if refused and not change.give:
        raise refused
    _carry_out(change, kernel, ledger)


def leave(kernel: Kernel, ledger: Ledger) -> None:
    """Give everything back for good: what living leases hold follows when they end, without a service.

    Raises:
        NotGivenBack: the kernel refused some of it.
    """
    found = ledger.record
    try:
        give_back(kernel, ledger)
    finally:  # what the kernel refuses of the rest is no lease's fault
        waiting = {lease.id for lease in ledger.record.pool.leases if _follows(lease, kernel)}
    if any(not kernel.processes.alive(lease.holder) for lease in ledger.record.pool.leases):
        give_back(kernel, ledger)  # it ended before its end was waited for
    left = ledger.record.pool
    if ledger.record == found and left == Pool():
        return log.info("nothing is set aside on this machine: there is nothing to give back")
    leased_mib = sum(lease.memory_mib for lease in left.leases)
    whole = f" (leased are {leased_mib} MiB; a bank goes as a whole)" if left.memory_mib > leased_mib else ""
    stays = f", except what leases hold: {left.describe()}{whole}" if left != Pool() else ""
    follows = ", which is given back when they end" if stays and waiting >= {lease.id for lease in left.leases} else ""
    log.info("the pool is given back to the host%s%s", stays, follows, extra=POOL_GIVEN_BACK)


def _follows(lease: Lease, kernel: Kernel) -> bool:
    """Have what a lease holds given back when it ends. Where systemd refuses, the next start and stop do it."""
    try:
        kernel.scopes.give_back_after(lease)
    except OSError as error:
        log.warning("lease %s: nobody will give its part back: %s", lease.describe(), error.strerror, extra=REFUSED)
        return False
    return True


def _carry_out(change: Change, kernel: Kernel, ledger: Ledger) -> None:
    """Carry a change out, if it is one."""
    if change.take or change.give or change.pool != ledger.record.pool:
        carry_out(change, kernel, ledger)


def _leased_plan(pool: Pool) -> Plan:
    """Return the plan that keeps what leases hold, and no more."""
    pages: dict[int, int] = {}
    for bank in pool.leased_banks:
        pages[bank.node] = pages.get(bank.node, 0) + bank.pages
    return Plan(tuple(sorted(pool.leased_cores)), max((bank.page_kib for bank in pool.leased_banks), default=0), pages)


def _recover(kernel: Kernel, ledger: Ledger) -> None:
    """Finish what a crash interrupted, one way or the other."""
    if done := recover(kernel, ledger):
        log.warning("%s", done, extra=RECOVERED)


def _announce(change: Change, config: Config, kernel: Kernel) -> None:
    """Log what the user did not ask for in so many words, and the tasks that will be moved."""
    for remark in remarks(change.pool, config):
        if remark.event:
            log.log(remark.level, "%s", remark.text, extra=remark.event)
    if offline := change.pool.offline_cpus & kernel.sysfs.online():
        tell_displaced(offline, change.pool.offline_cpus | change.pool.lent_cpus, kernel)
