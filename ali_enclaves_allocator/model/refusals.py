"""Why a lease is refused or cannot be released: types with numbers in them, like all errors."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ali_enclaves_allocator.model.cpus import are, counted, named
from ali_enclaves_allocator.model.errors import AllocatorError
from ali_enclaves_allocator.model.placement import NodeOffer

MOST_TOLD = 8
"""Of more free cores than these the first are told."""


def whole_cores_of(free: Sequence[str]) -> str:
    """Say which cores there are to be had: a lease has whole ones."""
    if not free:
        return "cores are lent whole, and none is free"
    told = " ".join(f"[{core}]" for core in free[:MOST_TOLD])
    more = f" … {len(free)} in all" if len(free) > MOST_TOLD else ""
    return f"cores are lent whole, free {'is' if len(free) == 1 else 'are'} {told}{more}"


@dataclass
class LeaseLimitReached(AllocatorError):
    """There are as many leases as `max_enclaves` allows."""

    limit: int
    """`max_enclaves` of the configuration in force."""
    leases: list[str]
    """Who holds what."""

    def what(self) -> str:
        """Give the limit and the leases."""
        held = f": {', '.join(self.leases)}" if self.leases else ""
        return f"cannot lend: {len(self.leases)} of at most {self.limit} enclaves exist (max_enclaves){held}"

    def hint(self) -> str:
        """Name both ways out."""
        return "end an enclave, or raise max_enclaves in allocator.yaml and reload the service"


@dataclass
class LeasesDisabled(AllocatorError):
    """The configuration leaves the pool to programs that take its memory, and with a driver its CPUs, themselves."""

    cpu_driver: str
    """What has the pool's CPUs: sysfs or nitro_enclaves."""

    def what(self) -> str:
        """Name the settings."""
        return f"cannot lend: the pool's memory is not held (hold_memory: false, cpu_driver: {self.cpu_driver})"

    def hint(self) -> str:
        """Say who is to be asked instead, and what to change."""
        if self.cpu_driver == "sysfs":
            return "any program can map this pool's pages; for leases, set hold_memory: true and reload the service"
        return "nitro-cli uses this pool; for leases, set cpu_driver: sysfs and reload the service"


@dataclass
class NotWholeCores(AllocatorError):
    """The CPUs asked for are part of a core; a core is never shared between enclaves, nor with the host."""

    cpus: list[int]
    """The CPUs asked for by number."""
    siblings: list[int]
    """The CPUs of the core that would be cut, or of any core when only a number was asked for."""
    requested: int = 0
    """How many CPUs were asked for, where none was by number."""
    free: list[str] = field(default_factory=list)
    """The cores that are free, each by its CPUs: 2-3."""

    def what(self) -> str:
        """Give what was got and the core."""
        if self.cpus:
            core, missing = named(self.siblings), are(set(self.siblings) - set(self.cpus))
            return f"cannot lend part of a core: got {named(self.cpus)}, wanted all of {core}: {missing} missing"
        threads = len(self.siblings)
        return f"cannot lend part of a core: got {counted(self.requested)}, wanted a multiple of {threads}"

    def hint(self) -> str:
        """Name the cores that are there."""
        return whole_cores_of(self.free)


@dataclass
class InsufficientCpus(AllocatorError):
    """The pool has not as many free CPUs on one node, or not those."""

    requested: int
    """How many CPUs were asked for."""
    reason: str
    """Why not."""
    per_node: list[NodeOffer]
    """What each node has free."""
    free: list[str] = field(default_factory=list)
    """The cores that are free, each by its CPUs: 2-3."""

    def what(self) -> str:
        """Give what was requested and what each node has free."""
        free = "; ".join(f"node {offer.node}: {offer.cpus} free" for offer in self.per_node)
        return f"cannot lend {counted(self.requested)}: {self.reason} ({free})"

    def hint(self) -> str:
        """Name the cores that are there, and the ways out."""
        return (
            f"{whole_cores_of(self.free)}; ask for fewer, or for others of the pool (see: ali-enclaves-allocator "
            "status), end an enclave, or give the pool more in allocator.yaml and reload the service"
        )


@dataclass
class InsufficientMemory(AllocatorError):
    """No node that has the CPUs has as much of the pool's memory free."""

    requested_mib: int
    """What was asked for, before it is rounded to whole pages."""
    per_node: list[NodeOffer]
    """What each node has free."""
    leases: list[str]
    """Those that hold memory of these nodes."""

    def what(self) -> str:
        """Give what was requested, what each node has free and who has the rest."""
        free = "; ".join(f"node {offer.node}: {offer.memory_mib} MiB free" for offer in self.per_node)
        held = f"; held by {', '.join(self.leases)}" if self.leases else ""
        return f"cannot lend {self.requested_mib} MiB: {free}{held}"

    def hint(self) -> str:
        """Name the ways out."""
        return "ask for less, end an enclave, or raise memory_mib in allocator.yaml and reload the service"


@dataclass
class PoolNotReady(AllocatorError):
    """The pool is being changed, or is not what it should be."""

    state: str
    """What the pool is instead of ready."""
    reason: str
    """Why."""

    def what(self) -> str:
        """Give the state and why."""
        return f"cannot lend: the pool is {self.state}: {self.reason}"

    def hint(self) -> str:
        """Name the command that shows it."""
        return "ali-enclaves-allocator status"


@dataclass
class ReloadRefused(AllocatorError):
    """The service ends, so the file is not brought into force any more."""

    state: str

    def what(self) -> str:
        """Give the state."""
        return f"cannot reload: the service is {self.state}"


@dataclass
class OnlineImpossible(AllocatorError):
    """CPUs cannot be lent online here, because nothing would keep the host's tasks off them."""

    reason: str
    """What is missing, or in the way."""

    def what(self) -> str:
        """Give the reason."""
        return f"cannot lend CPUs online: {self.reason}"

    def hint(self) -> str:
        """Name what is needed."""
        return "it takes cgroup v2 with cpuset partitions (Linux 6.1), and no other cgroup on those CPUs"


@dataclass
class HolderGone(AllocatorError):
    """The process that asked for the lease has ended."""

    pid: int
    """The process that connected; 0 if its pid is of another namespace."""

    def what(self) -> str:
        """Name the process."""
        return f"cannot lend: the caller, process {self.pid}, has ended"


@dataclass
class NoSuchLease(AllocatorError):
    """No lease has that id."""

    lease: str
    """The id that was asked for."""

    def what(self) -> str:
        """Name the id."""
        return f"cannot release: no lease {self.lease!r}"


@dataclass
class NotPermitted(AllocatorError):
    """The caller may not do this."""

    need: str
    """Who may."""
    action: str
    """What was asked for."""
    uid: int
    """Who asked."""

    def what(self) -> str:
        """Give who asked and who may."""
        return f"cannot {self.action}: got uid {self.uid}, wanted {self.need}"


@dataclass
class InvalidRequest(AllocatorError):
    """A request that contradicts itself."""

    parameter: str
    """The parameter to correct."""
    problem: str
    """What was got and wanted."""

    def what(self) -> str:
        """Name the parameter and what is wrong with it."""
        return f"cannot lend: {self.parameter}: {self.problem}"
