"""The daemon that has nothing to do: what wakes it, and what memory it has."""

from tests.bench.figures import Figure, Result, Target
from tests.bench.in_guest import measure as in_guest
from tests.bench.row import Options

TIMES = 2
RSS_MIB = 48
WATCHDOG_S = 30
SLOW_S = 30


def measure(_options: Options) -> Result:
    """Leave it alone for some times of two minutes."""
    times = in_guest("idle", TIMES)
    rss = [one["rss_kib"] / 1024 for one in times]
    per_minute = [60 * one["switches"] / one["seconds"] for one in times]
    grown = f"{rss[0]:.1f} … {rss[-1]:.1f} MiB over {sum(one['seconds'] for one in times) / 60:g} minutes"
    woken = f"watchdog every {WATCHDOG_S} s, slow timer every {SLOW_S} s; each look is a thread or a call of its own"
    return Result(
        [
            Figure("idle daemon, resident memory", "—", max(rss), "MiB", target=Target("≤", RSS_MIB), note=grown),
            Figure("idle daemon, wake-ups of all threads", "—", max(per_minute), "a minute", note=woken),
        ]
    )
