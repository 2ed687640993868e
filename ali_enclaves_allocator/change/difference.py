"""The difference between the pool that stands and the plan, as steps. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ali_enclaves_allocator.change.steps import AddPages, DissolveSlice, SetBank, SetCpu, SetDriverCpus, Step
from ali_enclaves_allocator.model.config import Config
from ali_enclaves_allocator.model.plan import Plan
from ali_enclaves_allocator.model.pool import Bank, Pool, Share, Sight
from ali_enclaves_allocator.model.topology import NO_PAGES


@dataclass(frozen=True)
class Change:
    """The way from one pool to another."""

    pool: Pool
    """The pool that stands when all is done."""
    take: tuple[Step, ...] = ()
    """What must succeed before the new pool stands."""
    give: tuple[Step, ...] = ()
    """What is given back once it stands."""


@dataclass
class _Memory:
    """The steps for the pages of one size on one node."""

    raises: list[Step] = field(default_factory=list)
    banks: list[Step] = field(default_factory=list)
    drops: list[Step] = field(default_factory=list)
    lowers: list[Step] = field(default_factory=list)
    kept: list[Bank] = field(default_factory=list)


def difference(pool: Pool, sight: Sight, plan: Plan, config: Config | None) -> Change:
    """Return the steps from `pool`, as far as it still stands in `sight`, to `plan`: the difference and no more.

    Memory is taken first and CPUs last; what is no longer wanted is given back, CPUs first, only when the new pool
    stands. Pages are given back while a bank still has them: while others use more surplus pages than there are idle
    ones, the kernel keeps what is free then, as surplus (`min_count` of `set_max_huge_pages`, mm/hugetlb.c), but a
    surplus page that is freed is gone. One exception: where a node both drops a bank and needs a new one, the drop
    comes first and the new bank reuses its pages, so that a smaller pool never needs more memory on the way.
    """
    names = _free_names(pool)
    wanted = {(node, plan.page_kib): pages for node, pages in plan.pages.items() if pages}
    keys = sorted(wanted.keys() | {(share.node, share.page_kib) for share in pool.shares})
    hold = config is None or config.hold_memory
    memory = [_memory(pool, sight, key, wanted.get(key, 0), names, hold) for key in keys]
    after = Pool(
        cores=plan.cores,
        banks=tuple(bank for part in memory for bank in part.kept),
        shares=tuple(Share(*key, pages, pool.share(*key).absorbed) for key, pages in sorted(wanted.items())),
        config=config,
        leases=pool.leases,
        cpusets=pool.cpusets,
    )
    cpus = _cpus(pool, sight, after)
    return Change(
        pool=after,
        take=(*_all(memory, "raises"), *_all(memory, "banks"), *cpus.take),
        give=(*cpus.give, *_all(memory, "lowers"), *_all(memory, "drops")),
    )


def _cpus(pool: Pool, sight: Sight, after: Pool) -> Change:
    """Return the steps for the CPUs, and for the slice that some were lent in."""
    off = after.offline_cpus
    online = [SetCpu(cpu, online=True) for cpu in sorted(pool.offline_cpus - off - after.lent_cpus - sight.online)]
    offline = [SetCpu(cpu, online=False) for cpu in sorted(off & sight.online)]
    empty = [DissolveSlice()] if sight.has_slice and not (off | after.lent_cpus) - after.driver_cpus else []
    if pool.driver_cpus or after.driver_cpus:
        return _driver(pool, sight, after, empty)
    return Change(after, take=tuple(offline), give=(*online, *empty))


def _driver(pool: Pool, sight: Sight, after: Pool, empty: Iterable[Step]) -> Change:
    """Return the steps for CPUs that the driver `nitro_enclaves` has, or is to have; then there are no leases.

    It has them all or none, so it cannot give first and take later, or the other way round; what it takes must be
    online before.
    """
    wanted, has = after.driver_cpus, sight.driver or frozenset()
    step = SetDriverCpus(tuple(sorted(wanted)), tuple(sorted(has)))
    driver = [] if has == wanted and not wanted & sight.online else [step]
    if not after.cores:
        return Change(after, give=tuple(driver))
    if not wanted:
        return Change(after, take=(*driver, *(SetCpu(cpu, online=False) for cpu in sorted(after.offline_cpus))))
    before = [] if pool.driver_cpus else [SetCpu(cpu, online=True) for cpu in sorted(pool.offline_cpus)]
    return Change(after, take=(*before, *empty, *driver))


def _memory(pool: Pool, sight: Sight, key: tuple[int, int], wanted: int, names: Iterator[str], hold: bool) -> _Memory:
    """Return the steps that bring one node's pages of one size to `wanted`.

    Leased banks stay. The rest is one bank, so that one lease can have all of it, or with `hold` off is left free.
    """
    part = _Memory()
    share = pool.share(*key)
    mounted = [bank for bank in pool.banks if (bank.node, bank.page_kib) == key and bank.name in sight.held]
    held = sum(sight.held[bank.name] for bank in mounted)
    counts = sight.pages.get(key, NO_PAGES)
    lowered = counts.persistent < share.pages  # by somebody: what no bank holds is no longer ours
    ours = held if lowered else share.pages
    leased = set(pool.leased_banks)
    part.kept += [bank for bank in pool.leased_banks if (bank.node, bank.page_kib) == key]
    missing = wanted - sum(bank.pages for bank in part.kept)
    for bank in mounted:
        if bank in leased:
            continue
        if hold and missing and sight.held[bank.name] >= bank.pages == missing:
            part.kept.append(bank)
            missing = 0
        else:
            part.drops.append(SetBank(bank, present=False))
    raised = 0 if hold else max(0, wanted - ours)
    if hold and missing:
        kept = sum(bank.pages for bank in part.kept if bank in mounted)
        loose = min(max(0, ours - held), counts.free)
        raised = max(0, missing - (held - kept) - loose)
        fresh = Bank(next(names), *key, missing)
        part.banks = [*part.drops, SetBank(fresh, present=True)]
        part.drops = []
        part.kept.append(fresh)
    reused = part.banks[:-1] and counts.surplus  # lost to a drop, unless a raise makes it persistent first
    regained = max(0, held - counts.persistent) if lowered and wanted else 0
    if raised or reused or regained:
        part.raises.append(AddPages(*key, raised, regained=regained))
    if surplus := ours + raised - wanted:
        part.lowers.append(AddPages(*key, -surplus, absorbed=0 if wanted else share.absorbed))
    return part


def _all(memory: list[_Memory], kind: str) -> Iterator[Step]:
    """Return one kind of step over all nodes."""
    for part in memory:
        yield from getattr(part, kind)


def _free_names(pool: Pool) -> Iterator[str]:
    """Return bank names that no bank of the pool has."""
    taken = {bank.name for bank in pool.banks}
    number = 0
    while True:
        if (name := f"bank{number}") not in taken:
            yield name
        number += 1
