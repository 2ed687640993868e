"""Why a request has no place on this machine: what each node could give, and what would fit."""

from dataclasses import dataclass

from ali_enclaves_allocator.model.cpus import counted, format
from ali_enclaves_allocator.model.errors import AllocatorError


def short(cpus: int, cpus_there: int, memory_mib: int, memory_there_mib: int) -> str:
    """Say both ways what is missing of what was wanted; empty when nothing is."""
    missing = []
    if cpus_there < cpus:
        missing.append(f"{counted(cpus - cpus_there)} short ({cpus_there} available)")
    if memory_there_mib < memory_mib:
        missing.append(f"{memory_mib - memory_there_mib} MiB short ({memory_there_mib} available)")
    return ", ".join(missing)


@dataclass(frozen=True)
class NodeOffer:
    """What one node could give to the pool, against what was wanted of it."""

    node: int
    """Its id."""
    cpus: int
    """CPUs in whole cores."""
    memory_mib: int
    """Memory in whole pages."""

    def shortfall(self, cpus: int, memory_mib: int) -> str:
        """Say what is missing here, both ways."""
        return f"node {self.node}: {short(cpus, self.cpus, memory_mib, self.memory_mib) or 'fits'}"

    def told(self) -> str:
        """Say what there is, for a pool that takes a part of it."""
        if not self.cpus:
            return f"node {self.node}: no core to spare"
        return f"node {self.node}: {counted(self.cpus)} and {self.memory_mib} MiB available"


@dataclass(frozen=True)
class Fit:
    """A smaller request that would fit."""

    cpus: int
    memory_mib: int
    nodes: list[int]

    def __str__(self) -> str:
        where = "node" if len(self.nodes) == 1 else "nodes"
        return f"{counted(self.cpus)} with {self.memory_mib} MiB on {where} {format(self.nodes)}"


@dataclass
class NoNodeFits(AllocatorError):
    """The cores and the memory are not there. An EVM lives on one node, so each node of a pool has both."""

    cpus: int
    memory_mib: int
    spanning: bool
    """Whether the pool may be on several nodes: `max_enclaves` is above 1, and the machine has them."""
    nodes: list[NodeOffer]
    fits: list[Fit]
    withheld: list[str]
    """Cores that stay with the host for a reason that could be otherwise."""

    def what(self) -> str:
        """Say for each node what was missing."""
        asked = f"cannot place {counted(self.cpus)} and {self.memory_mib} MiB"
        if not self.spanning:
            offers = "; ".join(offer.shortfall(self.cpus, self.memory_mib) for offer in self.nodes)
            return f"{asked} on one node: {offers}"
        both = [offer for offer in self.nodes if offer.cpus and offer.memory_mib]
        cpus, memory_mib = sum(offer.cpus for offer in both), sum(offer.memory_mib for offer in both)
        all_in_all = short(self.cpus, cpus, self.memory_mib, memory_mib)
        all_in_all = all_in_all or "no nodes have both together"
        return f"{asked} over nodes: {all_in_all}; {'; '.join(offer.told() for offer in self.nodes)}"

    def hint(self) -> str:
        """Name the smaller requests that would fit, and what the host keeps for a reason of its own."""
        fits = f"what would fit: {', or '.join(map(str, self.fits))}" if self.fits else "no node has both to spare"
        return "; ".join([fits, *self.withheld])


@dataclass
class MachineTooSmall(AllocatorError):
    """The machine has no core to spare: one must stay with the host."""

    cpus: int
    needed: int

    def what(self) -> str:
        """Give the CPUs present and the CPUs needed."""
        return f"cannot set a pool aside: {counted(self.cpus)} online here, at least {self.needed} are needed"

    def hint(self) -> str:
        """Name the rule."""
        return "one physical core with all its hyper-threads stays with the host; choose a larger instance"


@dataclass
class HostMemoryTooLow(AllocatorError):
    """Reserving would leave the host less memory than `host_memory_mib`."""

    available_mib: int
    requested_mib: int
    host_memory_mib: int

    def what(self) -> str:
        """Give the memory available now, requested, and to be left."""
        return (
            f"cannot reserve {self.requested_mib} MiB of hugepages: {self.available_mib} MiB are available now and "
            f"{self.host_memory_mib} MiB must stay with the host (host_memory_mib)"
        )

    def hint(self) -> str:
        """Advise on the largest memory that fits."""
        room = max(0, self.available_mib - self.host_memory_mib)
        if not room:
            return "no more can be reserved now; stop programs, or lower host_memory_mib"
        return f"at most {room} MiB more can be reserved now; stop programs, or lower memory_mib or host_memory_mib"
