"""Acquire and Release, offline, of the whole pool and of a quarter of its memory, against bare fallocate."""

from statistics import median

from tests.bench.figures import Figure, Pair, Result, Target, ratio, seconds
from tests.bench.in_guest import Times
from tests.bench.in_guest import measure as in_guest
from tests.bench.row import Options

TARGETS = {"whole": ("the whole pool", Target("≤", 1.0)), "quarter": ("a quarter of its memory", Target("≤", 1.3))}


def measure(options: Options) -> Result:
    """Lend both in turns, of the pool of the shipped file."""
    times = in_guest("lease", options.pairs)
    return Result([_figure(name, times) for name in TARGETS])


def _figure(name: str, times: list[Times]) -> Figure:
    """Compare the sum of both calls, and tell them apart."""
    work, target = TARGETS[name]
    acquire, release = (median(one[f"{name}_{call}"] for one in times) for call in ("acquire", "release"))
    pairs = [Pair(one[f"{name}_acquire"] + one[f"{name}_release"], one[f"{name}_bare"]) for one in times]
    note = f"Acquire {seconds(acquire)}, Release {seconds(release)}"
    return ratio(f"Acquire + Release of {work}", "bare fallocate of the same pages", pairs, target, note=note)
