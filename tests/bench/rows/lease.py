"""Acquire and Release, offline, of the whole pool and of a quarter of its memory, against bare fallocate."""

from collections.abc import Sequence
from statistics import median

from tests.bench.figures import Figure, Pair, Result, Target, ratio, seconds
from tests.bench.in_guest import Times
from tests.bench.in_guest import measure as in_guest
from tests.bench.row import Options

CALLS = ("acquire", "release")
TARGETS = {"whole": ("the whole pool", Target("≤", 1.0)), "quarter": ("a quarter of its memory", Target("≤", 1.3))}


def measure(options: Options) -> Result:
    """Lend both in turns, of the pool of the shipped file."""
    times = in_guest("lease", options.pairs)
    return Result([figure(name, times) for name in TARGETS for figure in (_calls, _until_clear)])


def _calls(name: str, times: list[Times]) -> Figure:
    """Compare the sum of both calls, and tell them apart."""
    work, target = TARGETS[name]
    acquire, release = (seconds(median(one[f"{name}_{call}"] for one in times)) for call in ("acquire", "release"))
    scope = seconds(median(one["scope"] for one in times))
    note = f"Acquire {acquire}, Release {release}; to start and stop a scope by itself: {scope}"
    return _figure(f"Acquire + Release of {work}", name, times, CALLS, target, note)


def _until_clear(name: str, times: list[Times]) -> Figure:
    """Compare with what follows the answer, too: who acquires the same memory next waits for that."""
    after = seconds(median(one[f"{name}_clear"] for one in times))
    return _figure("the same until the memory is clear again", name, times, (*CALLS, "clear"), None, f"{after} more")


def _figure(work: str, name: str, times: list[Times], parts: Sequence[str], target: Target | None, note: str) -> Figure:
    pairs = [Pair(sum(one[f"{name}_{part}"] for part in parts), one[f"{name}_bare"]) for one in times]
    return ratio(work, "bare fallocate of the same pages", pairs, target, note=note)
