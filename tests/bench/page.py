"""The table for people, and the text of docs/performance.md. Pure: what was found goes in, text comes out."""

from collections.abc import Iterable, Mapping, Sequence

from tests.bench.figures import Figure, Result, merged

HEAD = """\
<!-- Written by `make bench`; edits are lost. The words are in tests/bench/page.py. -->
# Performance

How fast the allocator is, against its peers and against the least that the kernel allows. `make bench` measures all of
it anew and writes this page; `make bench PEER=PATH` compares with AWS's allocator, whose program is no part of this
project. These are figures, not verdicts: a missed target is told, and fails nothing. What must not grow is *counted* by
the tests (`tests/sim/test_counts.py`), because a count does not depend on the machine and a time does.

Every ratio is the median of at least 7 pairs. Of a pair, ours and theirs run right after each other; without a guest,
and where a start is compared with a start, they take turns at being first. Both ran once before, uncounted. In
brackets are the quartiles: where they are far apart, the machine had other work. What runs in a guest (start, memory,
work, restart, lease, first-byte, idle, profile, fragmented) runs under QEMU's emulation, on memory that was touched
before; times there are many times those of a real machine, and only the ratios mean something.

Emulation makes one core of all CPUs of a guest. So what a real machine does beside something else adds to its time
here: while an enclave boots, the service clears what its lease left over. So `run-enclave` is measured where nothing is
left over, as by hand, and once more where most of the pool is. Boots take turns at being first; on both sides one takes
a third more or less than the next. Two other rows end at what systemd takes: it mounts and unmounts a bank, because
the service has no right to and a bank outlives it, and it starts and stops a lease's scope. Both are measured by
themselves. What Acquire and Release leave to be cleared is told in a row of its own: nobody waits for it but who
acquires next.

The peers of GetPool are the libraries `varlink` and `asyncvarlink` for Python. They serve a reply that stands; ours
makes it anew from the kernel's files once a second. A loop that writes the same bytes whatever comes is the floor.
"""


def table(results: Mapping[str, Result]) -> str:
    """Return the table of all figures, as Markdown, which a terminal shows well too."""
    head = ("work", "against", "figure", "target", "", "times, and more")
    rows = [_cells(figure) for result in results.values() for figure in result.figures]
    return "\n".join([_line(head), _line(["---"] * len(head)), *map(_line, rows)]) + "\n"


def page(results: Mapping[str, Result], missing: Sequence[str] = ()) -> str:
    """Return the whole text; `missing` are the rows that nobody has run yet."""
    parts = [HEAD, table(results)]
    parts += [f"![{plot.title}](performance/{name}.svg)\n" for name, plot in merged(results.values()).items()]
    parts += [
        f"## {name}\n\n```\n{result.profile.rstrip()}\n```\n" for name, result in results.items() if result.profile
    ]
    parts.append(_where(results))
    if missing:
        parts.append(f"Not run here yet: {', '.join(missing)}.\n")
    return "\n".join(parts)


def _cells(figure: Figure) -> tuple[str, ...]:
    """Return the cells of one figure."""
    value = "—" if figure.value is None else f"{figure.value:.3g} {figure.unit}"
    spread = f" ({figure.spread[0]:.3g} … {figure.spread[1]:.3g})" if figure.spread else ""
    return figure.work, figure.against, value + spread, str(figure.target or "—"), figure.verdict, figure.note


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _where(results: Mapping[str, Result]) -> str:
    """Say on what each row was measured, when and by which command; rows of one run share a line."""
    runs: dict[tuple[str, str, str], list[str]] = {}
    for name, result in results.items():
        runs.setdefault((result.machine, result.date, result.command), []).append(name)
    lines = [_run(names, *run) for run, names in runs.items()]
    return "## Where and when\n\n" + "\n".join(lines) + "\n"


def _run(names: Sequence[str], machine: str, date: str, command: str) -> str:
    return f"- {', '.join(names)}: {date}, `{command}`, on {machine}"
