"""Rule 1 of the choice: which cores the host keeps, and why. Pure."""

from collections.abc import Iterable, Iterator

from ali_enclaves_allocator.model import cpus
from ali_enclaves_allocator.model.pool import Pool
from ali_enclaves_allocator.model.topology import Core, Topology


def spare_cores(topology: Topology, present: Pool) -> Iterator[Core]:
    """Every core that `cpu_pool` may name. What the pool has of cores is known to be whole."""
    for core in topology.cores:
        its_own = core == topology.host_core or topology.fixed_cpus & set(core.cpus)
        if not its_own and (core not in topology.torn_cores or core in present.cores):
            yield core


def free_cores(topology: Topology, present: Pool) -> Iterator[Core]:
    """Every core that may be taken without being named: those but for what is isolated for other purposes."""
    for core in spare_cores(topology, present):
        if not topology.isolated & set(core.cpus) or core in present.leased_cores:
            yield core


def to_be_had(topology: Topology, present: Pool) -> str:
    """Say which CPUs `cpu_pool` may name."""
    there = {cpu for core in spare_cores(topology, present) for cpu in core.cpus}
    return f"wanted whole cores of {cpus.format(there)}" if there else "the host keeps every core of this machine"


def withheld(topology: Topology, present: Pool) -> list[str]:
    """Say which cores the host keeps although they could go offline, and what would free them."""
    said = []
    if some := {cpu for core in topology.torn_cores - set(present.cores) for cpu in core.cpus}:
        said.append(f"{cpus.named(some)} {_stay(some)} with the host: {torn(topology)}")
    if isolated := {cpu for core in topology.cores for cpu in core.cpus} & topology.isolated - present.cpus:
        said.append(
            f"{cpus.named(isolated)} {_stay(isolated)} with the host: isolated on the kernel's command line "
            "(isolcpus=, nohz_full=), taken only when cpu_pool names them"
        )
    return said


def torn(topology: Topology) -> str:
    """Say why a core counts as torn, and the way out."""
    offline = cpus.format(cpu for node in topology.nodes for cpu in node.offline)
    return (
        f"a hyper-thread of the core may be one that others took offline (now {offline}) and can bring back; "
        f"bring them online first: chcpu -e {offline}"
    )


def _stay(some: Iterable[int]) -> str:
    return "stay" if len(set(some)) > 1 else "stays"
