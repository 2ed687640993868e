#!/usr/lib/ali-enclaves/bin/python3 -I
"""Reserves pages of a node whose memory is in pieces, our way and by one write: fragmented.py fragmented TIMES.

Prints one line of JSON for each time: by level, how many pages were asked for and how many each got. A level is the
percentage of the node's free memory that is broken up, by `hugepages.py` beside this; the pieces can be moved, so what
is got depends on who asks for compaction. Nine tenths of what was free are asked for.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ali_enclaves_allocator.change.steps import AddPages
from ali_enclaves_allocator.kernel.linux import linux_kernel
from ali_enclaves_allocator.model.errors import ShortGrant

NODE = 1
PAGE_KIB = 2048
LEVELS = (0, 25, 50, 75, 95)
DIRECTORY = Path(f"/sys/devices/system/node/node{NODE}")
NUMBER = DIRECTORY / f"hugepages/hugepages-{PAGE_KIB}kB/nr_hugepages"

kernel = linux_kernel(Path("/run/ali-enclaves"))


def free_mib() -> int:
    """Return what the node has free, with no cache on it."""
    Path("/proc/sys/vm/drop_caches").write_text("3")
    lines = (DIRECTORY / "meminfo").read_text().splitlines()
    return next(int(line.split()[3]) for line in lines if "MemFree" in line) // 1024


@contextmanager
def in_pieces(mib: int) -> Iterator[None]:
    """Break up so much of the node's memory meanwhile."""
    command = ["python3", "hugepages.py", "fragment", str(NODE), str(mib)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as fragmenter:
        assert fragmenter.stdout and fragmenter.stdout.readline() == "held\n"
        yield
        fragmenter.kill()


def as_we_do(pages: int) -> int:
    """Reserve as a start does. Return what came of it."""
    with suppress(ShortGrant):
        AddPages(NODE, PAGE_KIB, pages).decided(kernel).apply(kernel)
    return int(NUMBER.read_text())


def by_one_write(pages: int) -> int:
    """Reserve as the peers do. Return what came of it."""
    NUMBER.write_text(str(pages))
    return int(NUMBER.read_text())


def got(reserve: Callable[[int], int], level: int, free: int, pages: int) -> int:
    """Return what one way gets at a level; afterwards it is given back."""
    with in_pieces(max(1, free * level // 100)):
        count = reserve(pages)
        NUMBER.write_text("0")
    return count


def main() -> None:
    """Run the command line."""
    free = free_mib()
    pages = free * 9 // 10 * 1024 // PAGE_KIB
    for time in range(int(sys.argv[2])):
        found = {}
        for level in LEVELS:
            ways = [("ours", as_we_do), ("theirs", by_one_write)]
            counts = {name: got(way, level, free, pages) for name, way in (ways if time % 2 else reversed(ways))}
            found |= {f"{level}_{name}": count for name, count in counts.items()}
        print(json.dumps({"asked": pages} | found), flush=True)


if __name__ == "__main__":
    main()
