"""A simulated kernel that behaves: the doors of `ali_enclaves_allocator.kernel` over a machine made of values.

It grants fewer pages than asked, removes `topology/` of an offline CPU, refuses with EBUSY, lets other programs take
pages at the worst moment, and dies at any effect (`effects`).
"""

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ali_enclaves_allocator.kernel.doors import Kernel
from ali_enclaves_allocator.kernel.processes import Task
from ali_enclaves_allocator.kernel.sysfs import CPU, NODE, Sysfs
from ali_enclaves_allocator.model import cpus
from ali_enclaves_allocator.model.pool import Bank
from ali_enclaves_allocator.model.topology import PageCounts
from tests.machines import SMALL_PAGE_KIB, Machine
from tests.sim.effects import Effects
from tests.sim.pages import Hugepages, Mount, NodeMemory, every


@dataclass(frozen=True)
class SimTask:
    """A thread of some program."""

    task: Task
    affinity: frozenset[int]
    deadline: bool = False


@dataclass(frozen=True)
class State:
    """Everything that a test of "as it was" compares."""

    online: frozenset[int]
    pages: Mapping[tuple[int, int], PageCounts]
    reserved: Mapping[int, int]
    available_kib: Mapping[int, int]
    mounted: Mapping[str, tuple[int, ...]]


class Simulation:
    """A running machine, what other programs do on it, and its doors."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.effects = Effects()
        self.online = set(machine.cpus - machine.offline)
        self.memory = {node: NodeMemory(mib * 1024, mib * 1024) for node, mib in machine.memory_mib.items()}
        self.pages = {kib: Hugepages(kib, self.memory) for kib in machine.page_kibs}
        self.mounts: dict[str, Mount] = {}
        self.tasks: list[SimTask] = []
        self.kernel = Kernel(Sysfs(SimFiles(self)), SimBanks(self), SimProcesses(self))

    def state(self) -> State:
        """Return everything that matters now."""
        return State(
            frozenset(self.online),
            {(node, kib): self.counts(node, kib) for kib in self.pages for node in self.memory},
            {kib: pages.reserved for kib, pages in self.pages.items()},
            {node: memory.free_kib + memory.cache_kib for node, memory in self.memory.items()},
            {name: tuple(mount.file) for name, mount in self.mounts.items()},
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

    def set_online(self, cpu: int, online: bool) -> None:
        """Do what the kernel does for `cpuN/online`."""
        if not online and cpu in self.online and (self.kernel.processes.deadline_tasks(cpu) or self.online == {cpu}):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        (self.online.add if online else self.online.discard)(cpu)


class SimFiles:
    """Virtual files below /sys: those that the allocator uses, and what it would trip over."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def read(self, path: str) -> str:
        """Return a file's text without its last newline."""
        match path.removeprefix("devices/system/").split("/"):
            case ["cpu", "online"]:
                return cpus.format(self._simulation.online)
            case ["node", "online"]:
                return cpus.format(self._simulation.memory)
            case ["cpu", name, *rest] if name in self.list(CPU):
                return self._read_cpu(_number(name), rest)
            case ["node", name, *rest] if name in self.list(NODE):
                return self._read_node(_number(name), rest)
        raise _absent(path)

    def write(self, path: str, text: str) -> None:
        """Write the text in one write(2): one effect."""
        simulation = self._simulation
        with simulation.effects.effect(f"write {text} to {path}"):
            match path.removeprefix("devices/system/").split("/"):
                case ["cpu", name, "online"] if "online" in self.list(f"{CPU}/{name}"):
                    simulation.set_online(_number(name), bool(int(text)))
                case ["node", name, "hugepages", size, "nr_hugepages"] if name in self.list(NODE):
                    if int(text) < 0:
                        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
                    simulation.set_by_hand(_number(name), int(text), _number(size))
                case ["node", name, "compact"] if name in self.list(NODE):
                    simulation.memory[_number(name)].compact()
                case _:
                    raise _absent(path)

    def list(self, path: str) -> list[str]:
        """Return the names in a directory."""
        simulation = self._simulation
        match path.removeprefix("devices/system/").split("/"):
            case ["cpu"]:
                return [*(f"cpu{cpu}" for cpu in sorted(simulation.machine.cpus)), "online", "offline", "present"]
            case ["cpu", name] if name in self.list(CPU):
                return list(self._cpu_entries(_number(name)))
            case ["node"]:
                return [*(f"node{node}" for node in sorted(simulation.memory)), "online", "possible"]
            case ["node", name, "hugepages"] if name in self.list(NODE):
                return [f"hugepages-{kib}kB" for kib in simulation.pages]
        raise _absent(path)

    def _cpu_entries(self, cpu: int) -> Iterator[str]:
        """The entries of `cpuN/`: no `online` where it is fixed, no `topology` while offline, but its node's link."""
        machine = self._simulation.machine
        yield from (f"node{core.node}" for core in machine.cores if cpu in core.cpus)
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
                core = next(core for core in self._simulation.machine.cores if cpu in core.cpus)
                return cpus.format(online & set(core.cpus))
        raise _absent(f"{CPU}/cpu{cpu}/{'/'.join(path)}")

    def _read_node(self, node: int, path: Sequence[str]) -> str:
        """Read below `nodeN/`."""
        match path:
            case ["cpulist"]:
                return self._cpulist(node)
            case ["meminfo"]:
                return self._meminfo(node)
            case ["hugepages", size, file] if _number(size) in self._simulation.pages:
                counts = self._simulation.counts(node, _number(size))
                values = {"nr": counts.total, "free": counts.free, "surplus": counts.surplus}
                return str(values[file.removesuffix("_hugepages")])
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


class SimBanks:
    """Banks: hugetlbfs mounts with one hold file each."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._mounts = simulation.mounts

    def mount(self, bank: Bank) -> None:
        """Mount a bank of exactly its size; one that is mounted already stays as it is."""
        if bank.name in self._mounts:
            return
        with self._simulation.effects.effect(f"mount {bank.name}"):
            mount = Mount(self._simulation.pages[bank.page_kib], bank.pages)
            if not mount.open():
                raise OSError(errno.EIO, "systemd-mount: Cannot allocate memory")
            self._mounts[bank.name] = mount

    def fill(self, bank: Bank) -> None:
        """Fill the hold file, in two effects, so that the process can die half-way."""
        mount = self._mounts[bank.name]
        missing = bank.pages - len(mount.file)
        for part in filter(None, (missing // 2, missing - missing // 2)):
            with self._simulation.effects.effect(f"fill {bank.name}"):
                every(part, lambda: mount.extend(bank.node))

    def unmount(self, bank: Bank) -> None:
        """Unmount a bank, which frees its pages; one that is not mounted is no error."""
        if bank.name not in self._mounts:
            return
        with self._simulation.effects.effect(f"unmount {bank.name}"):
            self._mounts.pop(bank.name).close()

    def held(self) -> Mapping[str, int]:
        """Return the pages in use in each mounted bank, by its name."""
        return {name: len(mount.file) for name, mount in sorted(self._mounts.items())}


class SimProcesses:
    """What /proc tells."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def available_kib(self) -> int:
        """Return the memory programs could still get without swapping."""
        return sum(memory.free_kib + memory.cache_kib for memory in self._simulation.memory.values())

    def confined_to(self, cpus: frozenset[int]) -> list[Task]:
        """Return the tasks that may run on these CPUs only."""
        return [entry.task for entry in self._simulation.tasks if entry.affinity <= cpus]

    def deadline_tasks(self, cpu: int) -> list[Task]:
        """Return the SCHED_DEADLINE tasks that may run on a CPU."""
        return [entry.task for entry in self._simulation.tasks if entry.deadline and cpu in entry.affinity]


def _number(name: str) -> int:
    """Return the number in `cpu7`, `node1` or `hugepages-2048kB`."""
    return int("".join(filter(str.isdigit, name)))


def _absent(path: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
