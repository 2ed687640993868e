"""Measure, and write docs/performance.md: `python -m tests.bench [NAME…] [--peer PATH] [--pairs N]`.

Without names, all rows. What a row found is kept in docs/performance/, so that a run of some of them keeps the others.
"""

import argparse
import os
import platform
import shlex
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from pydantic import TypeAdapter

from tests.bench.figures import Result, merged
from tests.bench.page import page, table
from tests.bench.plots import draw
from tests.bench.row import LEAST_PAIRS, Options
from tests.bench.rows import ROWS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FOUND = DOCS / "performance"
RESULT = TypeAdapter(Result)


def main() -> None:
    """Measure what is asked for, print the table of it, and write the page of all there is."""
    options, names = _options()
    FOUND.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in names:
        print(f"bench: {name}", file=sys.stderr, flush=True)
        found[name] = replace(ROWS[name].measure(options), machine=_machine(), date=_date(), command=_command())
        kept(name).write_bytes(RESULT.dump_json(found[name], indent=1))
    print(table(found))
    every = {name: RESULT.validate_json(kept(name).read_bytes()) for name in ROWS if kept(name).exists()}
    for file, plot in merged(every.values()).items():
        draw(plot, FOUND / f"{file}.svg")
    (DOCS / "performance.md").write_text(page(every, [name for name in ROWS if name not in every]))


def kept(name: str) -> Path:
    """Return where a row's result is kept."""
    return FOUND / f"{name}.json"


def _options() -> tuple[Options, list[str]]:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="NAME", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--peer", type=Path, metavar="PATH", help="the program nitro-enclaves-allocator of AWS")
    parser.add_argument("--pairs", type=int, default=LEAST_PAIRS, metavar="N", help=f"at least {LEAST_PAIRS}")
    parser.add_argument("--no-guest", action="store_true", help="only what needs no guest")
    given = parser.parse_args()
    if unknown := set(given.rows) - ROWS.keys():
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    if given.pairs < LEAST_PAIRS:
        parser.error(f"--pairs: got {given.pairs}, wanted at least {LEAST_PAIRS}")
    names = [name for name in given.rows or ROWS if not (given.no_guest and ROWS[name].in_guest)]
    return Options(given.pairs, given.peer.resolve() if given.peer else None), names


def _machine() -> str:
    """Say what this machine is."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in cpuinfo if line.startswith("model name")), platform.machine())
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    versions = f"Linux {platform.release().partition('-')[0]}, Python {platform.python_version()}"
    return f"{os.cpu_count()} CPUs of {model}, {memory_gib:.0f} GiB, {versions}"


def _date() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime())


def _command() -> str:
    """Return the command as anybody may give it: where the peer's program lies is this machine's business."""
    words = ["PATH" if before == "--peer" else word for before, word in pairwise(sys.argv)]
    return shlex.join(["python", "-m", "tests.bench", *words])


if __name__ == "__main__":
    main()
