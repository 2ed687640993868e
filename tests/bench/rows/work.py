"""Apply and undo, kernel work only, against the bare sequence of the same from a small C program."""

from statistics import median

from tests.bench.figures import Pair, Result, Target, ratio, seconds
from tests.bench.in_guest import Times
from tests.bench.in_guest import measure as in_guest
from tests.bench.row import Options

BARE = "the bare sequence, in C"


def measure(options: Options) -> Result:
    """Make and undo the pool of the shipped file, in a process that is up, so that imports count for nothing."""
    times = in_guest("work", options.pairs)
    systemd = median(one["systemd"] for one in times)
    kernel = ratio(
        "apply + undo, kernel work only",
        BARE,
        [Pair(one["kernel"], _bare(one)) for one in times],
        Target("≤", 1.1),
        note=f"of ours {seconds(systemd)} are systemd's, which mounts and unmounts, as the service has no right to",
    )
    without = ratio(
        "the same without what systemd does",
        BARE,
        [Pair(one["kernel"] - one["systemd"], _bare(one)) for one in times],
        None,
    )
    whole = ratio("the same with all that is read, chosen and recorded", BARE, _whole(times), None)
    return Result([kernel, without, whole], profile=_parts(times))


def _parts(times: list[Times]) -> str:
    """Say of which parts both consist."""
    parts = {
        "numbers of pages": ("set_pages", "bare set_pages"),
        "CPUs offline and online": ("set_online", "bare set_online"),
        "mount, hold, unmount": ("banks", "bare banks"),
    }
    middle = {key: seconds(median(one[key] for one in times)) for pair in parts.values() for key in pair}
    lines = [f"{middle[ours]:>8} against {middle[bare]:>8}  {part}" for part, (ours, bare) in parts.items()]
    return "\n".join(["apply + undo, ours against the bare sequence, in emulation:", *lines])


def _whole(times: list[Times]) -> list[Pair]:
    return [Pair(one["whole"], _bare(one)) for one in times]


def _bare(times: Times) -> float:
    return times["bare_settings"] + times["bare_hold"] + times["bare_undo"]
