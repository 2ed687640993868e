"""Where the time of a start goes before the first kernel setting: shown, against nothing."""

from statistics import median

from tests.bench.figures import Result, seconds
from tests.bench.in_guest import measure as in_guest
from tests.bench.row import Options


def measure(options: Options) -> Result:
    """Time ever more of it, each in a process of its own."""
    times = in_guest("profile", options.pairs)
    lines = [f"{seconds(median(one[name] for one in times)):>8}  {name}" for name in times[0]]
    return Result([], profile="\n".join(["before the first kernel setting, in emulation:", *lines]))
