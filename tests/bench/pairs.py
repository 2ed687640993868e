"""Pairs: ours and theirs, one right after the other, so that what the machine does meanwhile meets both."""

import gc
import time
from collections.abc import Callable

from tests.bench.figures import Pair

Work = Callable[[], object]


def timed(work: Work) -> float:
    """Return the seconds that some work takes."""
    gc.collect()
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def busy(work: Work) -> float:
    """Return the processor seconds that some work takes, which others on the machine hardly change."""
    gc.collect()
    begin = time.process_time()
    work()
    return time.process_time() - begin


def interleaved(ours: Work, theirs: Work, count: int) -> list[Pair]:
    """Time both so many times; each goes first in every other pair, after one round of each that does not count."""
    ours()
    theirs()
    pairs = []
    for number in range(count):
        if number % 2:
            second = timed(theirs)
            pairs.append(Pair(timed(ours), second))
        else:
            first = timed(ours)
            pairs.append(Pair(first, timed(theirs)))
    return pairs
