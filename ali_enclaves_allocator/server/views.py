"""What the interface's types are filled with: the pool, its leases and one sentence, as clients see them. Pure."""

from ali_enclaves_allocator.model.config import Config
from ali_enclaves_allocator.model.errors import page_size
from ali_enclaves_allocator.model.pool import Drift, Lease, Pool, Sight
from ali_enclaves_allocator.model.tally import Tally
from ali_enclaves_allocator.model.topology import Core, Node, Topology
from ali_enclaves_allocator.server.interface import (
    ConfigView,
    CoreView,
    DriftView,
    HolderView,
    HugepagesView,
    LeaseView,
    NodeView,
    PoolView,
    State,
    Use,
)


def why(reason: str | None, drift: tuple[Drift, ...]) -> str | None:
    """Say why the pool is not what it should be."""
    return reason or "; ".join(map(str, drift)) or None


def sentence(state: State, pool: Pool, reason: str | None) -> str:
    """Say in one sentence how the pool stands, as `systemctl status` shows it."""
    reason = reason and reason.splitlines()[0]
    if pool == Pool():
        return f"{state}: {reason}" if reason else f"{state}: no pool"
    granted = [lease.describe() for lease in pool.leases if lease.granted]
    count, leases = len(granted), ", ".join(granted)
    idle = "no leases" if pool.taken_cores else "no leases, so the host has the CPUs"
    lent = f"{count} lease{'s' * (count > 1)}: {leases}" if leases else idle
    terms = _terms(pool)
    text = f"pool {state}: {pool.describe()}; {f'{terms}; {lent}' if terms and leases else terms or lent}"
    return f"{text}; {reason}" if reason else text


def _terms(pool: Pool) -> str:
    """Say who uses a pool that is not lent."""
    if pool.config is None or pool.config.hold_memory:
        return ""
    its = "with the nitro_enclaves driver" if pool.driver_cpus else "offline"
    return f"CPUs {its}, memory not held: nothing {'more ' if pool.leases else ''}is lent"


def pool_view(
    state: State,
    reason: str | None,
    config_path: str,
    pool: Pool,
    topology: Topology,
    sight: Sight,
    drift: tuple[Drift, ...],
    tally: Tally,
) -> PoolView:
    """Put together what GetPool answers. Pure."""
    return PoolView(
        state=state,
        summary=sentence(state, pool, why(reason, drift)),
        reason=why(reason, drift),
        config_path=config_path,
        config=pool.config and _config_view(pool.config),
        cpus=sorted(pool.cpus),
        memory_mib=pool.memory_mib,
        leases=sum(lease.granted for lease in pool.leases),
        nodes=[_node_view(node, pool, topology, sight) for node in topology.nodes],
        drift=[DriftView(what=entry.what, wanted=entry.wanted, got=entry.got) for entry in drift],
        short_grants=tally.short_grants,
        refused_acquisitions=dict(tally.refused_acquisitions),
    )


def lease_view(lease: Lease) -> LeaseView:
    """Put together what others may know of a lease."""
    return LeaseView(
        id=lease.id,
        name=lease.name,
        cpus=sorted(lease.cpus),
        node=lease.node,
        memory_mib=lease.memory_mib,
        hugepage_size=page_size(lease.page_kib),
        online=lease.online,
        scope=f"evm-{lease.id}.scope",
        holder=HolderView(pid=lease.holder.pid, uid=lease.holder.uid, comm=lease.holder.comm),
        since=lease.since,
        annotations=lease.annotations,
    )


def _config_view(config: Config) -> ConfigView:
    return ConfigView(
        memory_mib=config.memory_mib,
        cpu_count=config.cpu_count,
        cpu_pool=list(config.cpu_pool) if config.cpu_pool else None,
        hugepage_size=config.hugepage_size,
        max_enclaves=config.max_enclaves,
        host_memory_mib=config.host_memory_mib,
        cpu_driver=config.cpu_driver,
        offline=config.offline,
        hold_memory=config.hold_memory,
    )


def _node_view(node: Node, pool: Pool, topology: Topology, sight: Sight) -> NodeView:
    return NodeView(
        node=node.id,
        cores=[CoreView(cpus=list(core.cpus), use=_use(core, pool, topology)) for core in node.cores],
        memory_mib=node.memory_kib // 1024,
        available_mib=(node.available_kib - sum(pool.pages(node.id, kib) * kib for kib in node.pages)) // 1024,
        hugepages=[_hugepages_view(node, kib, pool, sight) for kib in sorted(node.pages)],
    )


def _use(core: Core, pool: Pool, topology: Topology) -> Use:
    if core in pool.leased_cores:
        return "leased"
    if core in pool.cores:
        return "pool" if core in pool.taken_cores else "lendable"
    its_own = core == topology.host_core or core in topology.torn_cores or topology.fixed_cpus & set(core.cpus)
    return "kept" if its_own else "host"


def _hugepages_view(node: Node, page_kib: int, pool: Pool, sight: Sight) -> HugepagesView:
    counts, asked = node.pages[page_kib], pool.pages(node.id, page_kib)
    banks = [bank for bank in pool.banks if (bank.node, bank.page_kib) == (node.id, page_kib)]
    held = sum(sight.held.get(bank.name, 0) for bank in banks)
    leased = sum(bank.pages - pool.free_pages(bank) for bank in banks)
    loose = 0 if pool.config is None or pool.config.hold_memory else max(0, min(asked, counts.persistent) - held)
    loose_free = min(loose, counts.free)
    return HugepagesView(
        hugepage_size=page_size(page_kib),
        asked=asked,
        granted=held + loose,
        leased=leased,
        free=held - leased + loose_free,
        others_total=counts.total - held - loose,
        others_free=counts.free - loose_free,
    )
