"""The interface `io.ali-enclaves.Allocator`: the types that travel, with the words of allocator.yaml.

These models are the schema: the description that clients read is rendered from them.
"""

from typing import Any, Literal

from pydantic import BaseModel, Field

from ali_enclaves_allocator.model.config import MAX_MEMORY_MIB
from ali_enclaves_allocator.model.cpus import MAX_CPUS
from ali_enclaves_allocator.server.contract import Parameters

NAME = "io.ali-enclaves.Allocator"

State = Literal["starting", "ready", "degraded", "stopping"]

Use = Literal["host", "kept", "pool", "lendable", "leased"]

SCHEMA_VERSION = 1
"""Version of what PoolView means; `docs/status.schema.json` is made from it."""


class CoreView(BaseModel, frozen=True):
    """A core: a set of sibling CPUs (hyper-threads)."""

    cpus: list[int] = Field(description="its CPUs, ascending")
    use: Use = Field(
        description="host: with the host; kept: never to be taken from the host; pool: free for a lease; lendable: "
        "free for a lease, and the host's until then; leased"
    )


class HugepagesView(BaseModel, frozen=True):
    """The hugepages of one size on one node."""

    hugepage_size: str = Field(description="2M or 1G")
    asked: int = Field(description="pages that the pool wants here")
    granted: int = Field(description="pages that the pool holds here")
    leased: int = Field(description="pages of the pool that leases hold")
    free: int = Field(description="pages of the pool that are free for leases")
    others_total: int = Field(description="pages of other programs, in use or idle")
    others_free: int = Field(description="idle pages of other programs")


class NodeView(BaseModel, frozen=True):
    """A NUMA node."""

    node: int = Field(description="its id; ids may have holes")
    cores: list[CoreView] = Field(description="its cores with an online CPU, and those of the pool")
    memory_mib: int = Field(description="all of its memory")
    available_mib: int = Field(description="memory that hugepages could still be made of, an upper bound")
    hugepages: list[HugepagesView] = Field(description="one entry for each page size that the node has")


class DriftView(BaseModel, frozen=True):
    """A difference between the pool and what the kernel shows now."""

    what: str = Field(description="the CPUs, the bank or the counter")
    wanted: str = Field(description="what the pool needs")
    got: str = Field(description="what the kernel shows")


class ConfigView(BaseModel, frozen=True):
    """The configuration in force; the keys are those of allocator.yaml(5)."""

    memory_mib: int = Field(description="memory asked for, before rounding up to whole pages")
    cpu_count: int | None = Field(description="CPUs asked for by number")
    cpu_pool: list[int] | None = Field(description="CPUs asked for by name")
    hugepage_size: str = Field(description="2M or 1G")
    max_enclaves: int = Field(description="leases that may exist at once")
    host_memory_mib: int = Field(description="memory that must stay available to the host")
    cpu_driver: str = Field(description="what takes the CPUs offline: sysfs or nitro_enclaves")
    offline: str = Field(description="when they are offline: always or leased")
    hold_memory: bool = Field(description="whether the pages are held; without, there are no leases")


class PoolView(BaseModel, frozen=True):
    """The pool and everything it depends on."""

    schema_version: int = Field(
        default=SCHEMA_VERSION,
        description="grows when a field goes or changes its meaning; a new field does not raise it",
        json_schema_extra={"const": SCHEMA_VERSION},
    )
    state: State = Field(description="ready: as the configuration asks; degraded: see reason and drift")
    summary: str = Field(description="one sentence for people")
    reason: str | None = Field(description="why the state is degraded, or what is under way")
    config_path: str = Field(description="the configuration file")
    config: ConfigView | None = Field(description="the configuration that the pool was chosen for")
    cpus: list[int] = Field(description="the CPUs of the pool, ascending")
    memory_mib: int = Field(description="the memory of the pool")
    leases: int = Field(description="leases that exist now")
    nodes: list[NodeView] = Field(description="the machine, node by node")
    drift: list[DriftView] = Field(description="empty when the kernel shows what the pool needs")
    short_grants: int = Field(description="times since the service's start that the kernel granted too few pages")
    refused_acquisitions: dict[str, int] = Field(description="refused calls of Acquire since then, by error")


class PoolReply(BaseModel, frozen=True):
    """The reply of GetPool and Reload."""

    pool: PoolView = Field(description="as it stands now")


class AcquireParameters(Parameters):
    """What is asked of the pool: one of cpu_count and cpus."""

    name: str | None = Field(
        default=None, pattern="^[A-Za-z0-9][A-Za-z0-9._:@-]{0,63}$", description="for people, need not be unique"
    )
    cpu_count: int | None = Field(default=None, ge=1, le=MAX_CPUS, description="how many CPUs, in whole cores")
    cpus: list[int] | None = Field(
        default=None, min_length=1, max_length=MAX_CPUS, description="these CPUs, whole cores of the pool"
    )
    memory_mib: int = Field(ge=1, le=MAX_MEMORY_MIB, description="rounded up to whole hugepages")
    node: int | None = Field(default=None, description="the node that it must be on")
    online: bool = Field(description="bring the CPUs online, for this kernel to run the EVM on, where no host task can")
    annotations: dict[str, Any] | None = Field(default=None, description="at most 1 KiB of JSON, shown in ListLeases")


class LeaseName(Parameters):
    """Names a lease."""

    lease: str = Field(max_length=64, description="its id")


class HolderView(BaseModel, frozen=True):
    """The process that a lease belongs to."""

    pid: int = Field(description="as the service sees it")
    uid: int = Field(description="whose it was when it connected")
    comm: str = Field(description="its name when it took the lease")


class LeaseView(BaseModel, frozen=True):
    """The part of the pool that one EVM holds, for as long as its holder lives."""

    id: str = Field(description="16 hexadecimal digits")
    name: str | None = Field(description="for people, need not be unique")
    cpus: list[int] = Field(description="ascending")
    node: int = Field(description="where its CPUs and its memory are")
    memory_mib: int = Field(description="in whole hugepages")
    hugepage_size: str = Field(description="2M or 1G")
    online: bool = Field(description="whether this kernel runs the EVM on them")
    scope: str = Field(description="the systemd unit that the holder is in")
    holder: HolderView = Field(description="whose end ends the lease")
    since: float = Field(description="Unix time")
    annotations: dict[str, Any] = Field(description="what the holder gave with Acquire")


class AcquireReply(BaseModel, frozen=True):
    """What Acquire gives."""

    lease: LeaseView = Field(description="as ListLeases shows it")
    memory_fd: int = Field(
        description="index of the descriptor that came with the reply: the memory, clear, to be mapped"
    )


class LeasesReply(BaseModel, frozen=True):
    """What ListLeases answers."""

    leases: list[LeaseView] = Field(description="the oldest first")


class WatchReply(BaseModel, frozen=True):
    """What Watch answers, again and again."""

    pool: PoolView = Field(description="as it stands now")
    leases: list[LeaseView] = Field(description="the oldest first")


class ReloadFailed(BaseModel, frozen=True):
    """The file was refused, or the machine cannot give what it asks; the former pool stands."""

    kind: str = Field(description="the type of the error, such as ConfigInvalid or NoNodeFits")
    exit_code: int = Field(description="78: the file is refused; 69: the machine cannot give what it asks")
    message: str = Field(description="for people: what, got and wanted, the state now, what to do")
