"""`systemctl start` to active, on 8, 16 and 32 CPUs, against AWS's allocator with the same request.

The peer reserves and lets anybody have the pages; ours also holds and clears them. So what each needs above the bare
kernel writes of its own kind is told too.
"""

from collections.abc import Sequence
from statistics import median

from tests.bench.figures import Figure, Pair, Plot, Result, Target, ratio, seconds
from tests.bench.in_guest import Shape, Times
from tests.bench.in_guest import measure as in_guest
from tests.bench.row import Options

MEMORY_MIB = 1024
SHAPES = {
    "documented file, 8 CPUs": (Shape(), 2, Target("≤", 1.5)),
    "half of 16 CPUs": (Shape(cores=4), 8, Target("≤", 1.0)),
    "half of 32 CPUs": (Shape(cores=8), 16, Target("≤", 0.7)),
}
AGAINST = "AWS's allocator"


def measure(options: Options) -> Result:
    """Boot a guest of each size."""
    figures: list[Figure] = []
    curves: dict[str, list[tuple[float, float]]] = {}
    for name, (shape, cpus, target) in SHAPES.items():
        files = [options.peer, *sorted(options.peer.parent.glob("*.deb"))] if options.peer else []
        keys = {"memory_mib": MEMORY_MIB, "cpu_count": cpus, "peer": int(bool(options.peer))}
        times = in_guest("start", options.pairs, shape=shape, files=files, **keys)
        figures += _figures(name, times, target)
        for key, curve in (("ours", "ours"), ("theirs", AGAINST), ("bare_settings", "bare writes")):
            if key in times[0]:
                curves.setdefault(curve, []).append((float(shape.cpus), median(one[key] for one in times)))
    plot = Plot(f"systemctl start, {MEMORY_MIB} MiB, in emulation", "CPUs of the machine", "seconds", curves)
    return Result(figures, {"performance-start": plot})


def _figures(name: str, times: Sequence[Times], target: Target) -> list[Figure]:
    """Compare the whole with the peer, if there is one; else with the bare sequence, for which there is no target."""
    work = f"`systemctl start`, {name}"
    bare = [one["bare_settings"] + one["bare_hold"] for one in times]
    above = median(one["ours"] - floor for one, floor in zip(times, bare, strict=True))
    if "theirs" not in times[0]:
        note = f"{seconds(median(one['ours'] for one in times))}, {seconds(above)} above the bare kernel work"
        return [Figure(work, AGAINST, target=target, note=f"no --peer; ours {note}")]
    theirs = median(one["theirs"] - one["bare_settings"] for one in times)
    note = f"above the bare kernel work {seconds(above)} against {seconds(theirs)}"
    return [ratio(work, AGAINST, [Pair(one["ours"], one["theirs"]) for one in times], target, note=note)]
