"""The model: the same machine without an allocator, on which other programs do the same as on the one with it.

What they did is theirs. So the machine with the allocator must differ from this twin by the pool and nothing else,
and when the pool is given back it must be the twin. What they cannot have on both machines, they do on neither.
"""

from collections.abc import Iterator

from tests.machines import SMALL_PAGE_KIB, Machine
from tests.sim.kernel import Simulation
from tests.sim.scenarios import crowd

Key = tuple[int, int]
"""A node and a page size in KiB."""


class Others:
    """Other programs and other administrators, on a machine with an allocator and on its twin."""

    def __init__(self, machine: Machine, simulation: Simulation, crowded: bool) -> None:
        self.simulation, self.alone = simulation, Simulation(machine)
        for each in self._both():
            each.driver.loaded = True
            if crowded:
                crowd(each)
        self.used: dict[Key, int] = {(node, SMALL_PAGE_KIB): self._in_use(node) for node in simulation.memory}
        self.stolen: dict[Key, int] = {}
        """Pages taken in the middle of a change: some of them may have been meant for the pool."""
        self.blurred: set[Key] = set()
        """Counters that somebody lowered when their pages could not be told from ours."""

    def _both(self) -> Iterator[Simulation]:
        yield self.simulation
        yield self.alone

    def _in_use(self, node: int) -> int:
        return self.alone.counts(node).in_use

    def blur_what_surplus_keeps(self) -> None:
        """Note where their surplus pages keep ours from being given back exactly.

        The kernel frees no page of any node while fewer persistent ones would be left than are in use on all nodes,
        surplus included (`min_count` in `set_max_huge_pages`); what it keeps so is called surplus, and is free.
        """
        for page_kib in self.alone.pages:
            counts = [self.alone.counts(node, page_kib) for node in self.alone.memory]
            if len(counts) > 1 and sum(at.in_use for at in counts) > sum(at.persistent for at in counts):
                self.blurred |= {(node, page_kib) for node in self.alone.memory}

    def use(self, key: Key, count: int) -> None:
        """Take pages."""
        theirs = self.alone.use(key[0], count, key[1])
        got = self.simulation.use(key[0], theirs, key[1])
        self.alone.release(key[0], theirs - got, key[1])
        self.used[key] = self.used.get(key, 0) + got

    def release(self, key: Key, count: int) -> None:
        """Free pages that they have."""
        count = min(count, self.used.get(key, 0))
        for each in self._both():
            each.release(key[0], count, key[1])
        self.used[key] = self.used.get(key, 0) - count

    def steal(self, key: Key, count: int) -> None:
        """Take pages where the allocator has some in its hands."""
        self.stolen[key] = self.stolen.get(key, 0) + self.simulation.use(key[0], count, key[1])
        if len(self.alone.memory) > 1:  # they may be surplus, which keeps pages as above
            self.blurred |= {(node, key[1]) for node in self.alone.memory}

    def return_stolen(self) -> None:
        """Free them."""
        for (node, page_kib), count in self.stolen.items():
            self.simulation.release(node, count, page_kib)
        self.stolen = {}

    def raise_number(self, key: Key, count: int) -> None:
        """Ask for more pages by hand."""
        got = [_moved(each, key, count) for each in self._both()]
        for each, its in zip(self._both(), got, strict=True):
            _moved(each, key, min(got) - its)

    def lower_number(self, key: Key, count: int) -> None:
        """Ask for fewer pages by hand: some of those that are idle, as all can see.

        A kernel that miscounts takes fewer, as many as there is surplus elsewhere, which is not the same on both.
        """
        count = min(count, *(each.counts(*key).free for each in self._both()))
        ours, theirs = (_moved(each, key, -count) for each in self._both())
        if ours != theirs:
            self.blurred.add(key)

    def overwrite_number(self, key: Key, number: int) -> None:
        """Write a number by hand, as one does who thinks that all pages are his."""
        self.blurred.add(key)
        for each in self._both():
            each.set_by_hand(key[0], number, key[1])

    def overcommit(self, count: int) -> None:
        """Allow surplus pages, or forbid them."""
        for each in self._both():
            each.pages[SMALL_PAGE_KIB].overcommit = count

    def take_memory(self, node: int, kib: int) -> None:
        """Use memory that is no hugepage, or free some."""
        kib = min(kib, *(each.memory[node].free_kib - each.memory[node].scattered_kib for each in self._both()))
        for each in self._both():
            each.memory[node].free_kib -= kib

    def scatter(self, node: int, kib: int, stuck_kib: int) -> None:
        """Leave the free memory of a node in pieces."""
        kib = min(kib, *(each.memory[node].free_kib for each in self._both()))
        for each in self._both():
            each.memory[node].scattered_kib, each.memory[node].stuck_kib = kib, min(kib, stuck_kib)

    def set_cpu(self, cpu: int, online: bool) -> None:
        """Take a CPU offline by hand, or bring it online."""
        for each in self._both():
            if cpu in each.present:
                each.set_online(cpu, online)

    def unplug(self, *cpus: int) -> None:
        """Take CPUs out of the machine."""
        for each in self._both():
            each.unplug(*cpus)

    def plug(self, *cpus: int) -> None:
        """Put CPUs back into the machine, and bring them online."""
        for each in self._both():
            each.plug(*cpus)
            each.online |= set(cpus)


def _moved(simulation: Simulation, key: Key, count: int) -> int:
    """Move a number of persistent pages; return by how much it really changed."""
    before = simulation.counts(*key).persistent
    simulation.set_by_hand(key[0], before + count, key[1])
    return simulation.counts(*key).persistent - before
