"""Named machines: the plan is tested on their topologies, the simulated kernel boots them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from ali_enclaves_allocator.model.topology import NO_PAGES, Core, Node, Topology

SMALL_PAGE_KIB = 2048
LARGE_PAGE_KIB = 1024 * 1024


@dataclass(frozen=True)
class Machine:
    """The hardware: cores, and the memory of each node, all of it free."""

    cores: tuple[Core, ...]
    memory_mib: Mapping[int, int]
    """By node id; a node may have no core, and the ids may have holes."""
    fixed_cpus: frozenset[int] = frozenset({0})
    page_kibs: tuple[int, ...] = (SMALL_PAGE_KIB, LARGE_PAGE_KIB)
    offline: frozenset[int] = field(default_factory=frozenset)
    """CPUs that are there but offline from the beginning, by nobody's doing of ours."""
    numa: bool = True
    """Without (CONFIG_NUMA), the kernel has no `node` directory; all is on node 0."""
    miscounts: bool = False
    """Whether the kernel is older than 6.7 and takes surplus hugepages of other nodes for persistent ones."""
    smt_control: str = "on"
    """`/sys/devices/system/cpu/smt/control`: on, off, forceoff, notsupported."""
    isolated: frozenset[int] = field(default_factory=frozenset)
    """`isolcpus=`"""
    nohz_full: frozenset[int] = field(default_factory=frozenset)
    cpusets: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """Cpusets of cgroup v1, by their paths, that other programs made."""

    @property
    def cpus(self) -> frozenset[int]:
        """Every CPU present."""
        return frozenset(cpu for core in self.cores for cpu in core.cpus)

    def topology(self) -> Topology:
        """Return the machine as the door to /sys must read it: of its cores, what is online."""
        online = (Core(tuple(cpu for cpu in core.cpus if cpu not in self.offline), core.node) for core in self.cores)
        cores = sorted(core for core in online if core.cpus)
        nodes = tuple(
            Node(
                id=node,
                cores=tuple(core for core in cores if core.node == node),
                memory_kib=mib * 1024,
                available_kib=mib * 1024,
                pages={kib: NO_PAGES for kib in self.page_kibs} if mib else {},
                offline=frozenset(cpu for core in self.cores if core.node == node for cpu in core.cpus) & self.offline,
            )
            for node, mib in sorted(self.memory_mib.items())
        )
        every = {cpu for core in cores for cpu in core.cpus}
        return Topology(
            nodes,
            sum(self.memory_mib.values()) * 1024,
            self.fixed_cpus & every,
            self.smt_control == "on",
            self.isolated | self.nohz_full,
        )


def cores(node: int, *siblings: tuple[int, ...]) -> tuple[Core, ...]:
    """Return cores of one node, each by its sibling CPUs."""
    return tuple(Core(cpus, node) for cpus in siblings)


def machine(parts: Iterable[tuple[Core, ...]], memory_mib: int = 4096) -> Machine:
    """Return a machine of these cores with as much memory on each of their nodes."""
    every = tuple(core for part in parts for core in part)
    return Machine(every, dict.fromkeys(sorted({core.node for core in every}), memory_mib))


GUEST_2X2X2 = machine([cores(0, (0, 1), (2, 3)), cores(1, (4, 5), (6, 7))])
"""The guest of the VM tests: 2 nodes × 2 cores × 2 threads, siblings side by side."""

DUAL_SOCKET_HT = machine(
    [cores(0, *((cpu, cpu + 8) for cpu in range(4))), cores(1, *((cpu, cpu + 8) for cpu in range(4, 8)))]
)
"""Bare metal as firmware numbers it: siblings are N and N + half."""

NO_SMT = replace(machine([cores(0, *((cpu,) for cpu in range(4)))]), smt_control="notsupported")
"""One thread per core."""

ONE_NODE = machine([cores(0, (0, 1), (2, 3), (4, 5), (6, 7))])
"""A common instance: one node, four cores."""

FOUR_NODES = machine([cores(node, (4 * node, 4 * node + 1), (4 * node + 2, 4 * node + 3)) for node in range(4)])
"""4 nodes × 2 cores × 2 threads."""

OLDER_NODES = replace(FOUR_NODES, miscounts=True)
"""The same with a kernel before Linux 6.7."""

ONE_CORE_LEFT = machine([cores(0, (0, 1), (2, 3))])
"""The smallest machine that can have a pool: one core for it, one for the host."""

ONE_CORE = machine([cores(0, (0, 1))])
"""Too small for any pool."""

TORN_CORES = Machine(cores(0, (0, 1), (2, 3), (4, 5), (6, 7)), memory_mib={0: 4096}, offline=frozenset({3, 7}))
"""Somebody took single hyper-threads offline, which may come back any time."""

TORN_HOST_CORE = Machine(cores(0, (0, 1), (2, 3)), memory_mib={0: 4096}, offline=frozenset({1}))
"""Somebody took a hyper-thread of the host's own core offline; the other core is whole."""

ALL_TORN = replace(TORN_CORES, offline=frozenset({1, 3, 5, 7}))
"""Somebody took one hyper-thread of every core offline by hand; SMT is on."""

NOSMT = replace(DUAL_SOCKET_HT, offline=frozenset(range(8, 16)), smt_control="off")
"""Booted with `nosmt`: the siblings are there, and stay offline."""

MIXED_SMT = machine([cores(0, (0, 1), (2, 3), (4, 5), (6,), (7,), (8,))])
"""Performance cores with two hyper-threads and efficient ones with one; none is offline."""

LONE_THREAD = machine([cores(0, (0, 1), (2, 3), (4,))])
"""An odd core in the highest place, which a count of 2 must leave out."""

NODE_HOLES = Machine(
    (*cores(0, (0, 1), (2, 3)), *cores(2, (4, 5), (6, 7)), *cores(5, (8, 9), (10, 11))),
    memory_mib={0: 1024, 2: 2048, 3: 8192, 5: 4096},
)
"""Node ids 0, 2, 3, 5; node 3 is memory without CPUs."""

LONE_CORE_BEYOND = machine([cores(0, (0, 1), (2, 3), (4,), (5,)), cores(1, (6, 7))])
"""A node that has just one core, after one that has more and of more kinds."""

NO_MEMORY_ON_NODE_1 = replace(GUEST_2X2X2, memory_mib={0: 4096, 1: 0})
"""Cores without memory of their own."""

NO_NUMA = replace(ONE_NODE, numa=False)
"""A kernel built without CONFIG_NUMA."""

ISOLATED = replace(ONE_NODE, isolated=frozenset({6, 7}), nohz_full=frozenset({4, 5, 6, 7}))
"""Half of the cores are set apart on the kernel's command line."""

HUGE = machine(
    [cores(node, *((cpu, cpu + 2048) for cpu in range(128 * node, 128 * node + 128))) for node in range(16)],
)
"""16 nodes with 4,096 CPUs: more than an affinity mask of glibc holds (CPU_SETSIZE, 1,024)."""

ALL_FIXED_ON_NODE_1 = Machine(GUEST_2X2X2.cores, memory_mib={0: 4096, 1: 4096}, fixed_cpus=frozenset({0, 4, 6}))
"""A kernel that keeps one CPU of each core of node 1 online."""

BOOTABLE = {
    "guest_2x2x2": GUEST_2X2X2,
    "dual_socket_ht": DUAL_SOCKET_HT,
    "no_smt": NO_SMT,
    "one_node": ONE_NODE,
    "four_nodes": FOUR_NODES,
    "older_nodes": OLDER_NODES,
    "one_core_left": ONE_CORE_LEFT,
    "torn_cores": TORN_CORES,
    "torn_host_core": TORN_HOST_CORE,
    "nosmt": NOSMT,
    "mixed_smt": MIXED_SMT,
    "lone_core_beyond": LONE_CORE_BEYOND,
    "no_memory_on_node_1": NO_MEMORY_ON_NODE_1,
    "no_numa": NO_NUMA,
    "isolated": ISOLATED,
    "huge": HUGE,
    "lone_thread": LONE_THREAD,
    "node_holes": NODE_HOLES,
    "all_fixed_on_node_1": ALL_FIXED_ON_NODE_1,
}
"""By name, every machine on which a pool is possible."""
