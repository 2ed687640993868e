"""The machine of a walk, and all who change it beside the allocator: what they did is known, and is theirs."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from walk_service import SECONDS, parsed

CPU = Path("/sys/devices/system/cpu")
NODE = Path("/sys/devices/system/node")
KIB = 2048


def online() -> frozenset[int]:
    """Return the CPUs that are online."""
    return parsed((CPU / "online").read_text())


def siblings(cpu: int) -> frozenset[int]:
    """Return the CPUs of an online CPU's core."""
    return parsed((CPU / f"cpu{cpu}/topology/thread_siblings_list").read_text())


def counters() -> dict[str, int]:
    """Return every hugepage counter of the machine, by its path below /sys."""
    paths = [*NODE.glob("node*/hugepages/*/*_hugepages"), *Path("/sys/kernel/mm/hugepages").glob("*/*_hugepages")]
    return {str(path): int(path.read_text()) for path in paths}


def counter(node: int, name: str, kib: int = KIB) -> Path:
    """Return the file of a counter of a node."""
    return NODE / f"node{node}/hugepages/hugepages-{kib}kB/{name}"


def look() -> None:
    """Let the service look at the machine now, rather than at its next time: the event tells of no change."""
    (CPU / "cpu0/uevent").write_text("change")


class Thief:
    """A program that takes idle hugepages of a node: so many for a while, or one over and over."""

    def __init__(self, node: int, pages: int) -> None:
        """Take so many pages; with 0 be the one that takes a page and gives it back, over and over."""
        self.node, self.pages = node, pages
        said = Path(f"thief.{time.monotonic_ns()}")
        what = ["hold", str(node), str(pages)] if pages else ["spin", str(said), str(node)]
        with said.open("w") as output:
            self._process = subprocess.Popen(["python3", "hugepages.py", *what], stdout=output)
        deadline = time.monotonic() + SECONDS
        while not said.read_text():
            assert self._process.poll() is None, f"{self} died: {self._process.returncode}"
            assert time.monotonic() < deadline, f"{self} did not begin"
            time.sleep(0.05)
        said.unlink()

    def __str__(self) -> str:
        return f"{self.pages} pages of node {self.node}" if self.pages else f"a page of node {self.node} over and over"

    def end(self) -> None:
        """Let go of the pages."""
        self._process.kill()
        self._process.wait()


class Others:
    """What other programs and administrators have done so far."""

    def __init__(self) -> None:
        self.cpus = online()
        self.host_core = siblings(0)
        self.found = counters()
        self.nodes = sorted(int(path.name.removeprefix("node")) for path in NODE.glob("node[0-9]*"))
        self.pages = dict.fromkeys(self.nodes, 0)
        """Persistent pages that were added by hand."""
        self.away: set[int] = set()
        """CPUs that were taken offline by hand."""
        self.thieves: list[Thief] = []

    @property
    def spinning(self) -> bool:
        """Whether a thief is there that takes pages when they change hands: what it may spoil is told in the manual."""
        return any(not thief.pages for thief in self.thieves)

    def used(self, node: int) -> int:
        """Return how many pages of a node the thieves have."""
        return sum(thief.pages for thief in self.thieves if thief.node == node)

    def idle(self, node: int) -> int:
        """Return how many pages of a node are there for others to take."""
        return self.pages[node] - self.used(node)

    def expected(self, asked: dict[tuple[int, int], int]) -> dict[str, int]:
        """Return what the counters must be while the pool has these pages, by node and size."""
        wanted = dict(self.found)
        for node in self.nodes:
            for name, more in (("nr_hugepages", self.pages[node]), ("free_hugepages", self.idle(node))):
                _add(wanted, node, KIB, name, more)
        for (node, kib), pages in asked.items():
            _add(wanted, node, kib, "nr_hugepages", pages)
        return wanted

    def write(self, node: int, more: int) -> None:
        """Write a node's number, as one who wants so many pages more or fewer than there are.

        The file shows surplus too, but a write is of what is persistent.
        """
        file = counter(node, "nr_hugepages")
        persistent = int(file.read_text()) - int(counter(node, "surplus_hugepages").read_text())
        for _ in range(3):  # short grants are not what is tried here
            file.write_text(str(persistent + more))
            if int(file.read_text()) >= persistent + more:
                return
            (NODE / f"node{node}/compact").write_text("1")

    def add(self, node: int, more: int) -> None:
        """Have so many pages more, or fewer of the idle ones."""
        self.write(node, more)
        self.pages[node] += more

    def switch(self, cpu: int, on: bool) -> None:
        """Take a CPU offline or bring it back."""
        (CPU / f"cpu{cpu}/online").write_text("1" if on else "0")
        (self.away.discard if on else self.away.add)(cpu)

    def steal(self, node: int) -> int:
        """Return how many pages a program gets that takes all that a node has, and gives them back."""
        stolen = subprocess.run(
            ["python3", "hugepages.py", "steal", str(node)], stdout=subprocess.PIPE, text=True, check=True
        )
        return int(stolen.stdout)

    def undo(self) -> None:
        """Take everything back."""
        for thief in self.thieves:
            thief.end()
        self.thieves = []
        for cpu in sorted(self.away):
            self.switch(cpu, True)
        for node in self.nodes:
            self.add(node, -self.pages[node])


def _add(counts: dict[str, int], node: int, kib: int, name: str, more: int) -> None:
    """Add to a counter of a node, and to that of the machine."""
    counts[str(counter(node, name, kib))] += more
    counts[f"/sys/kernel/mm/hugepages/hugepages-{kib}kB/{name}"] += more


def host_tasks() -> Iterator[tuple[str, frozenset[int]]]:
    """Return every task of user space outside the enclaves' slice, with the CPUs that it may run on.

    Not the visitor of `spinner.py`, which chooses its CPUs itself.
    """
    for status in _statuses():
        try:
            text = status.read_text()
            if "\nVmSize:" not in text or "/enclaves.slice/" in (status.parent / "cgroup").read_text():
                continue
        except OSError:  # it has ended
            continue
        lines = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
        if lines["Name"] == "visitor":
            continue
        yield f"{lines['Name']}[{lines['Pid']}]", parsed(lines["Cpus_allowed_list"])


def _statuses() -> Iterator[Path]:
    """Return where the status of every task is, of those too that end meanwhile: `Path.glob` fails for them."""
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            with suppress(OSError):
                yield from [task / "status" for task in (process / "task").iterdir()]
