"""What a pool means that its file does not say in so many words: nothing of it is an error. Pure."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ali_enclaves_allocator.model import cpus
from ali_enclaves_allocator.model.config import Config
from ali_enclaves_allocator.model.errors import page_size
from ali_enclaves_allocator.model.events import MEMORY_ROUNDED, NO_MEMORY, Extra
from ali_enclaves_allocator.model.pool import Pool


@dataclass(frozen=True)
class Remark:
    """One of them, and the event that the journal has it as, if it has."""

    text: str
    event: Extra | None = None
    level: int = logging.INFO


def remarks(pool: Pool, config: Config) -> Iterator[Remark]:
    """Return what is to be said of the pool of a file."""
    if pool.memory_mib != config.memory_mib and pool.shares:
        size = page_size(pool.shares[0].page_kib)
        told = f"{config.memory_mib} MiB rounded up to {pool.memory_mib} MiB, whole {size} pages"
        yield Remark(f"memory_mib: {told}", MEMORY_ROUNDED)
    for node, idle in _without_memory(pool).items():
        told = f"{cpus.named(idle)} of node {node} can run no enclave: no memory of that node is in the pool"
        yield Remark(told + (" (leases have it elsewhere)" if pool.leases else ""), NO_MEMORY, logging.WARNING)
    most, cores = f"max_enclaves: {config.max_enclaves}", len(pool.cores)
    if config.max_enclaves > cores:
        yield Remark(f"{most}: the pool has {cores} core{'s' * (cores != 1)}, and each enclave takes one at least")
    if len(pool.leases) > config.max_enclaves:
        yield Remark(f"{most}: the {len(pool.leases)} enclaves that run go on, and no other starts")


def _without_memory(pool: Pool) -> Mapping[int, frozenset[int]]:
    """Return the CPUs of the pool on each node of which it has no memory."""
    bare = sorted({core.node for core in pool.cores} - {share.node for share in pool.shares})
    return {node: frozenset(cpu for core in pool.cores if core.node == node for cpu in core.cpus) for node in bare}
