"""Memory and hugepages as mm/hugetlb.c keeps them, a page at a time and in the kernel's own order.

Names in backquotes are functions of that file (Linux 6.12).
"""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class NodeMemory:
    """The memory of one node that is no hugepage."""

    total_kib: int
    free_kib: int
    cache_kib: int = 0
    """Page cache: reclaimed when a hugepage needs it."""
    scattered_kib: int = 0
    """Free, but in pieces too small for a hugepage until compacted."""
    stuck_kib: int = 0
    """The part of `scattered_kib` that no compaction moves."""

    def take(self, kib: int) -> bool:
        """Allocate one hugepage from the buddy allocator, which reclaims but does not compact."""
        if self.free_kib + self.cache_kib - self.scattered_kib < kib:
            return False
        from_cache = max(0, kib - self.free_kib)
        self.cache_kib -= from_cache
        self.free_kib -= kib - from_cache
        return True

    def compact(self) -> None:
        """Join half of what can be moved, at least one hugepage of it; often enough, everything."""
        movable = self.scattered_kib - self.stuck_kib
        self.scattered_kib -= min(movable, max(movable // 2, 2048))


@dataclass
class Counters:
    """The counters of one size on one node."""

    total: int = 0
    free: int = 0
    surplus: int = 0


@dataclass
class Hugepages:
    """All hugepages of one size: a `struct hstate`."""

    page_kib: int
    memory: dict[int, NodeMemory]
    miscounts: bool = False
    """Whether surplus pages of other nodes count when a node's `nr_hugepages` is written, as before Linux 6.7."""
    overcommit: int = 0
    """`nr_overcommit_hugepages`."""
    reserved: int = 0
    """`resv_hugepages`: promised to mappings and mounts, on no node in particular."""
    nodes: dict[int, Counters] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.nodes = {node: Counters() for node in self.memory}

    def set_persistent(self, node: int, count: int) -> None:
        """Write a node's `nr_hugepages` (`set_max_huge_pages`). Never fails; grants what there is."""
        at = self.nodes[node]
        elsewhere = self._total() - at.total
        self.set_everywhere(node, count + elsewhere - (0 if self.miscounts else self._surplus() - at.surplus))

    def set_everywhere(self, node: int, count: int) -> None:
        """Write the whole machine's `nr_hugepages_mempolicy` under a policy for one node, whose pages come and go."""
        at = self.nodes[node]
        while at.surplus and count > self._persistent():
            at.surplus -= 1
        while count > self._persistent() and self._fresh(node):
            at.free += 1
        floor = max(count, self.reserved + self._total() - self._free())
        while floor < self._persistent() and at.free:
            self._return(node)
        while count < self._persistent() and at.surplus < at.total:
            at.surplus += 1

    def reserve(self, count: int) -> bool:
        """Promise pages (`hugetlb_acct_memory`), made on demand where overcommit allows (`gather_surplus_pages`)."""
        made: list[int] = []
        while self.reserved + count > self._free():
            node = next((node for node in self.nodes if self._surplus_page(node)), None)
            if node is None:
                for node in made:
                    self._return(node, surplus=True)
                return False
            self.nodes[node].free += 1
            made.append(node)
        self.reserved += count
        return True

    def unreserve(self, count: int) -> None:
        """Take a promise back; free surplus pages go with it (`return_unused_surplus_pages`)."""
        self.reserved -= count
        for _ in range(min(count, self._surplus())):
            node = next((node for node, at in self.nodes.items() if at.surplus and at.free), None)
            if node is None:
                return
            self._return(node, surplus=True)

    def allocate(self, node: int, promised: bool) -> bool:
        """Take one page of a node for a file or mapping bound to it (`alloc_hugetlb_folio`)."""
        at = self.nodes[node]
        if at.free and (promised or self._free() > self.reserved):
            at.free -= 1
        elif not self._surplus_page(node):
            return False
        self.reserved -= promised
        return True

    def free_page(self, node: int, promised: bool) -> None:
        """Give a page back (`free_huge_folio`): while the node has surplus, the page leaves the hugepages."""
        at = self.nodes[node]
        at.free += 1
        if at.surplus:
            self._return(node, surplus=True)
        self.reserved += promised

    def _surplus_page(self, node: int) -> bool:
        """Make one page beyond the persistent ones, in nobody's hands yet (`alloc_surplus_hugetlb_folio`)."""
        gigantic = self.page_kib >= 1024 * 1024
        if gigantic or self._surplus() >= self.overcommit or not self._fresh(node):
            return False
        self.nodes[node].surplus += 1
        return True

    def _fresh(self, node: int) -> bool:
        """Make one page from the node's memory."""
        if not self.memory[node].take(self.page_kib):
            return False
        self.nodes[node].total += 1
        return True

    def _return(self, node: int, surplus: bool = False) -> None:
        """Return one free page to the buddy allocator (`remove_hugetlb_folio`)."""
        at = self.nodes[node]
        at.total -= 1
        at.free -= 1
        at.surplus -= surplus
        self.memory[node].free_kib += self.page_kib

    def _persistent(self) -> int:
        return self._total() - self._surplus()

    def _total(self) -> int:
        return sum(at.total for at in self.nodes.values())

    def _free(self) -> int:
        return sum(at.free for at in self.nodes.values())

    def _surplus(self) -> int:
        return sum(at.surplus for at in self.nodes.values())


HOLD = "hold"
"""The file of a bank that holds what no lease has."""


@dataclass
class Mount:
    """A hugetlbfs mount with `size` and `min_size` alike: a `struct hugepage_subpool`, and its files' pages."""

    pages: Hugepages
    size: int
    promised: int = 0
    """`rsv_hpages`: reserved and not yet taken by a file."""
    files: dict[str, list[int]] = field(default_factory=dict)
    """By name, the node of each page of a file, in the order of the file."""

    @property
    def used(self) -> int:
        """`used_hpages`: what statvfs shows as used."""
        return sum(map(len, self.files.values()))

    def open(self) -> bool:
        """Mount: reserve every page."""
        if not self.pages.reserve(self.size):
            return False
        self.promised = self.size
        return True

    def extend(self, name: str, node: int) -> bool:
        """Give a file one more page of a node (`hugepage_subpool_get_pages`)."""
        if self.used == self.size or not self.pages.allocate(node, promised=self.promised > 0):
            return False
        self.promised -= self.promised > 0
        self.files[name].append(node)
        return True

    def truncate(self, name: str, length: int) -> None:
        """Cut a file; its pages go back, promised to this mount again (`hugepage_subpool_put_pages`)."""
        file = self.files[name]
        while len(file) > length:
            self.pages.free_page(file.pop(), promised=True)
            self.promised += 1

    def close(self) -> None:
        """Unmount: the files' pages go back, then the reservation."""
        for name in self.files:
            self.truncate(name, 0)
        self.files = {}
        self.pages.unreserve(self.promised)
        self.promised = 0


def every(count: int, attempt: Callable[[], bool]) -> int:
    """Try so many times; return how often it succeeded before it first failed."""
    return next((done for done in range(count) if not attempt()), count)
