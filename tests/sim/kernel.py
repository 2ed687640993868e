"""A simulated kernel that behaves: the doors of `ali_enclaves_allocator.kernel` over a machine made of values.

It grants fewer pages than asked, removes `topology/` of an offline CPU, refuses with EBUSY, lets other programs take
pages at the worst moment, and dies at any effect (`effects`).
"""

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ali_enclaves_allocator.kernel.doors import Kernel
from ali_enclaves_allocator.kernel.sysfs import CPU, NE_CPUS, NODE, Sysfs
from ali_enclaves_allocator.model import cpus
from ali_enclaves_allocator.model.topology import PageCounts
from tests.machines import SMALL_PAGE_KIB, Machine
from tests.sim.banks import SimBanks
from tests.sim.cpusets import SimCpusets
from tests.sim.driver import SimDriver
from tests.sim.effects import Effects
from tests.sim.pages import Hugepages, Mount, NodeMemory, every
from tests.sim.tasks import Partition, Scope, SimProcess, SimProcesses, SimScopes, SimTask, Task


@dataclass(frozen=True)
class State:
    """Everything that a test of "as it was" compares."""

    online: frozenset[int]
    pages: Mapping[tuple[int, int], PageCounts]
    reserved: Mapping[int, int]
    available_kib: Mapping[int, int]
    mounted: Mapping[str, Mapping[str, tuple[int, ...]]]
    """The node of every page, by bank and file."""
    partition: Partition
    lost: frozenset[int]
    scopes: frozenset[str]
    driver: frozenset[int]
    cpusets: Mapping[str, frozenset[int]]


class Simulation:
    """A running machine, what other programs do on it, and its doors."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.effects = Effects()
        self.present = set(machine.cpus)
        self.core_of = {cpu: core for core in machine.cores for cpu in core.cpus}
        self.online = set(machine.cpus - machine.offline)
        self.smt_control = machine.smt_control
        self.memory = {node: NodeMemory(mib * 1024, mib * 1024) for node, mib in machine.memory_mib.items()}
        self.pages = {kib: Hugepages(kib, self.memory, machine.miscounts) for kib in machine.page_kibs}
        self.mounts: dict[str, Mount] = {}
        self.tasks: list[SimTask] = []
        self.processes: dict[int, SimProcess] = {}
        self.partition = Partition()
        self.lost: frozenset[int] = frozenset()
        """CPUs that a slice took from the affinity of every host task, and did not give back."""
        self.siblings: dict[str, frozenset[int]] = {}
        """Other cgroups with `AllowedCPUs=`."""
        self.scopes: dict[str, Scope] = {}
        self.awaited: set[str] = set()
        """Scopes whose end gives back what they hold, though no service runs."""
        self.spilled: list[int] = []
        """CPUs that went offline under a living task of a scope, which the kernel then moved to the host's."""
        self.driver = SimDriver(self)
        self.cpusets = dict(machine.cpusets)
        self.kernel = Kernel(
            Sysfs(SimFiles(self)), SimBanks(self), SimProcesses(self), SimScopes(self), SimCpusets(self)
        )

    def state(self) -> State:
        """Return everything that matters now."""
        return State(
            frozenset(self.online),
            {(node, kib): self.counts(node, kib) for kib in self.pages for node in self.memory},
            {kib: pages.reserved for kib, pages in self.pages.items()},
            {node: memory.free_kib + memory.cache_kib for node, memory in self.memory.items()},
            {
                name: {file: tuple(pages) for file, pages in sorted(mount.files.items())}
                for name, mount in self.mounts.items()
            },
            self.partition,
            self.lost,
            frozenset(self.scopes),
            self.driver.cpus,
            dict(self.cpusets),
        )

    def counts(self, node: int, page_kib: int = SMALL_PAGE_KIB) -> PageCounts:
        """Return the counters of one size on one node."""
        at = self.pages[page_kib].nodes[node]
        return PageCounts(at.total, at.free, at.surplus)

    def set_by_hand(self, node: int, count: int, page_kib: int = SMALL_PAGE_KIB) -> None:
        """Write `nr_hugepages` as somebody else."""
        self.pages[page_kib].set_persistent(node, count)

    def use(self, node: int, count: int, page_kib: int = SMALL_PAGE_KIB) -> int:
        """Let another program take pages. Return how many it got."""
        return every(count, lambda: self.pages[page_kib].allocate(node, promised=False))

    def release(self, node: int, count: int, page_kib: int = SMALL_PAGE_KIB) -> None:
        """Let another program free pages that it took."""
        for _ in range(count):
            self.pages[page_kib].free_page(node, promised=False)

    def deadline_task(self, *affinity: int) -> None:
        """Start a SCHED_DEADLINE task, which keeps its CPUs online."""
        self.tasks.append(SimTask(Task(700 + len(self.tasks), "drumbeat"), frozenset(affinity), deadline=True))

    def task(self, *affinity: int) -> None:
        """Start an ordinary task that may run on these CPUs only."""
        self.tasks.append(SimTask(Task(700 + len(self.tasks), "worker"), frozenset(affinity)))

    def spawn(self, uid: int = 1000, comm: str = "qemu") -> int:
        """Start a process that can hold a lease. Return its pid."""
        pid = 900 + len(self.processes)
        self.processes[pid] = SimProcess(started=10_000 + len(self.processes), uid=uid, comm=comm)
        return pid

    def fork(self, parent: int) -> int:
        """Fork a process, into the cgroup of its parent. Return the child's pid."""
        child = self.spawn(self.processes[parent].uid, self.processes[parent].comm)
        for scope in self.scopes.values():
            if parent in scope.pids:
                scope.pids.add(child)
        return child

    def kill(self, pid: int) -> None:
        """Let a process end. A scope ends with its last process."""
        self.processes[pid].alive = False
        for name, scope in list(self.scopes.items()):
            scope.pids.discard(pid)
            if not scope.pids:
                del self.scopes[name]

    def claim(self, sibling: str, *claimed: int) -> None:
        """Give another cgroup `AllowedCPUs=`; a partition that it overlaps breaks at once."""
        self.siblings[sibling] = frozenset(claimed)
        self.partition = self.partition.beside(self.siblings)

    def unplug(self, *cpus_: int) -> None:
        """Take CPUs out of the machine: their directories vanish."""
        self.online -= set(cpus_)
        self.present -= set(cpus_)

    def plug(self, *cpus_: int) -> None:
        """Put CPUs back into the machine; they are offline until somebody brings them up."""
        self.present |= set(cpus_)

    def confined(self) -> frozenset[int]:
        """Return the CPUs that no host task can enter."""
        return self.partition.cpus if self.partition.valid else frozenset()

    def hosts_cpus(self) -> frozenset[int]:
        """Return the CPUs that host tasks run on."""
        return frozenset(self.online) - self.confined() - self.lost

    def set_online(self, cpu: int, online: bool) -> None:
        """Do what the kernel does for `cpuN/online`."""
        last = self.online == {cpu} or self.online & self.confined() == {cpu}
        if not online and cpu in self.online and (self.kernel.processes.deadline_tasks(cpu) or last):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        if not online and any(cpu in scope.cpus for scope in self.scopes.values()):
            self.spilled.append(cpu)
        (self.online.add if online else self.online.discard)(cpu)
        if not online:
            self.cpusets = {path: its - {cpu} for path, its in self.cpusets.items()}


class SimFiles:
    """Virtual files below /sys: those that the allocator uses, and what it would trip over."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def read(self, path: str) -> str:
        """Return a file's text without its last newline."""
        machine, driver = self._simulation.machine, self._simulation.driver
        if path == NE_CPUS and driver.loaded:
            return cpus.format(driver.cpus)
        match path.removeprefix("devices/system/").split("/"):
            case ["cpu", name, *rest] if self._is_cpu(name):
                return self._read_cpu(_number(name), rest)
            case ["cpu", *rest]:
                return self._read_cpus(rest)
            case ["node", "online"] if machine.numa:
                return cpus.format(self._simulation.memory)
            case ["node", name, *rest] if name in self.list(NODE):
                return self._read_node(_number(name), rest)
            case ["kernel", "mm", "hugepages", size, file] if _number(size) in self._simulation.pages:
                return _counter(file, [self._simulation.counts(node, _number(size)) for node in machine.memory_mib])
        raise _absent(path)

    def write(self, path: str, text: str) -> None:
        """Write the text in one write(2): one effect."""
        simulation = self._simulation
        with simulation.effects.effect(f"write {text} to {path}"):
            match path.removeprefix("devices/system/").split("/"):
                case ["cpu", name, "online"] if "online" in self.list(f"{CPU}/{name}"):
                    simulation.set_online(_number(name), bool(int(text)))
                case ["node", name, "hugepages", size, "nr_hugepages"] if name in self.list(NODE):
                    self._set_pages(_number(name), size, int(text))
                case ["kernel", "mm", "hugepages", size, "nr_hugepages"] if not simulation.machine.numa:
                    self._set_pages(0, size, int(text))
                case ["node", name, "compact"] if name in self.list(NODE):
                    simulation.memory[_number(name)].compact()
                case _:
                    raise _absent(path)

    def write_as_admin(self, path: str, text: str) -> None:
        """Let systemd write: one effect, also where the driver answers EINVAL: it gives up its CPUs all the same."""
        driver = self._simulation.driver
        if path != NE_CPUS or not driver.loaded:
            raise _absent(path)
        with self._simulation.effects.effect(f"write {text.strip()} to {path}"):
            refused = driver.set(text)
        if refused:
            raise OSError(refused, os.strerror(refused))

    def write_on(self, node: int, path: str, text: str) -> None:
        """Write the text under a memory policy: one effect."""
        simulation = self._simulation
        with simulation.effects.effect(f"write {text} to {path} on node {node}"):
            match path.split("/"):
                case ["kernel", "mm", "hugepages", size, "nr_hugepages_mempolicy"] if simulation.machine.numa:
                    simulation.pages[_number(size)].set_everywhere(node, int(text))
                case _:
                    raise _absent(path)

    def list(self, path: str) -> list[str]:
        """Return the names in a directory."""
        simulation = self._simulation
        match path.removeprefix("devices/system/").split("/"):
            case ["cpu"]:
                return [*(f"cpu{cpu}" for cpu in sorted(simulation.present)), "online", "offline", "present"]
            case ["cpu", name] if self._is_cpu(name):
                return list(self._cpu_entries(_number(name)))
            case ["node"] if simulation.machine.numa:
                return [*(f"node{node}" for node in sorted(simulation.memory)), "online", "possible"]
            case ["node", name, "hugepages"] if name in self.list(NODE) and simulation.memory[_number(name)].total_kib:
                return [f"hugepages-{kib}kB" for kib in simulation.pages]
            case ["kernel", "mm", "hugepages"] if not simulation.machine.numa:
                return [f"hugepages-{kib}kB" for kib in simulation.pages]
        raise _absent(path)

    def _read_cpus(self, path: Sequence[str]) -> str:
        """Read what is of all CPUs."""
        simulation = self._simulation
        match path:
            case ["online"]:
                return cpus.format(simulation.online)
            case ["present"]:
                return cpus.format(simulation.present)
            case ["smt", "control"]:
                return simulation.smt_control
            case ["isolated"]:
                return cpus.format(simulation.machine.isolated)
            case ["nohz_full"]:
                return cpus.format(simulation.machine.nohz_full) or "  (null)"
        raise _absent(f"{CPU}/{'/'.join(path)}")

    def _is_cpu(self, name: str) -> bool:
        """Tell whether this is the directory of a CPU."""
        return name[3:].isdigit() and int(name[3:]) in self._simulation.present

    def _set_pages(self, node: int, size: str, count: int) -> None:
        """Write `nr_hugepages`."""
        if count < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._simulation.set_by_hand(node, count, _number(size))

    def _cpu_entries(self, cpu: int) -> Iterator[str]:
        """The entries of `cpuN/`: no `online` where it is fixed, no `topology` while offline, but its node's link."""
        machine = self._simulation.machine
        if machine.numa:
            yield f"node{self._simulation.core_of[cpu].node}"
        if cpu not in machine.fixed_cpus:
            yield "online"
        if cpu in self._simulation.online:
            yield "topology"

    def _read_cpu(self, cpu: int, path: Sequence[str]) -> str:
        """Read below `cpuN/`."""
        online = self._simulation.online
        match path:
            case ["online"] if "online" in self._cpu_entries(cpu):
                return str(int(cpu in online))
            case ["topology", "thread_siblings_list"] if cpu in online:
                return cpus.format(online & set(self._simulation.core_of[cpu].cpus))
        raise _absent(f"{CPU}/cpu{cpu}/{'/'.join(path)}")

    def _read_node(self, node: int, path: Sequence[str]) -> str:
        """Read below `nodeN/`."""
        match path:
            case ["cpulist"]:
                return self._cpulist(node)
            case ["meminfo"]:
                return self._meminfo(node)
            case ["hugepages", size, file] if _number(size) in self._simulation.pages:
                return _counter(file, [self._simulation.counts(node, _number(size))])
        raise _absent(f"{NODE}/node{node}/{'/'.join(path)}")

    def _cpulist(self, node: int) -> str:
        """A node's `cpulist`: the online ones only."""
        here = {cpu for core in self._simulation.machine.cores if core.node == node for cpu in core.cpus}
        return cpus.format(here & self._simulation.online)

    def _meminfo(self, node: int) -> str:
        """A node's `meminfo`, as much of it as could be misread."""
        memory = self._simulation.memory[node]
        lines = {
            "MemTotal": memory.total_kib,
            "MemFree": memory.free_kib,
            "Active(file)": memory.cache_kib // 2,
            "Inactive(file)": memory.cache_kib - memory.cache_kib // 2,
            "FilePages": memory.cache_kib,
        }
        huge = f"Node {node} HugePages_Total:    {self._simulation.counts(node).total}"
        return "\n".join([*(f"Node {node} {name + ':':15} {kib:8} kB" for name, kib in lines.items()), huge])


def _counter(file: str, counts: Sequence[PageCounts]) -> str:
    """Return the text of a counter, of one node or of all."""
    field = {"nr_hugepages": "total", "free_hugepages": "free", "surplus_hugepages": "surplus"}[file]
    return str(sum(getattr(each, field) for each in counts))


def _number(name: str) -> int:
    """Return the number in `cpu7`, `node1` or `hugepages-2048kB`."""
    return int("".join(filter(str.isdigit, name)))


def _absent(path: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
