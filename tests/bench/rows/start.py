"""`systemctl start` to active, on 4, 8, 16 and 32 CPUs, against AWS's allocator with the same request.

The peer needs `file(1)` and its library: packages of them that lie beside the program are installed in the guest.
The peer reserves and lets anybody have the pages; ours also holds and clears them. So what each needs above the bare
kernel writes of its own kind is told too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from tests.bench.figures import Figure, Pair, Plot, Result, Target, ratio, seconds
from tests.bench.in_guest import Shape, Times
from tests.bench.in_guest import measure as in_guest
from tests.bench.row import Options

MEMORY_MIB = 1024
AGAINST = "AWS's allocator"


@dataclass(frozen=True)
class Start:
    """A start on one machine."""

    name: str
    shape: Shape
    cpus: int
    target: Target | None

    def measure(self, options: Options) -> Result:
        """Start both in turns in one guest."""
        files = options.peer_files()
        keys = {"memory_mib": MEMORY_MIB, "cpu_count": self.cpus, "peer": int(bool(files))}
        times = in_guest("start", options.pairs, shape=self.shape, files=files, **keys)
        curves = {
            curve: [(float(self.shape.cpus), median(one[key] for one in times))]
            for key, curve in (("ours", "ours"), ("theirs", AGAINST), ("bare_settings", "bare writes"))
            if key in times[0]
        }
        plot = Plot(f"systemctl start, {MEMORY_MIB} MiB, in emulation", "CPUs of the machine", "seconds", curves)
        return Result(_figures(self.name, times, self.target), {"start": plot})


STARTS = {
    "start-4": Start("documented file, 4 CPUs", Shape(cores=1), 2, None),
    "start-8": Start("documented file, 8 CPUs", Shape(), 2, Target("≤", 1.5)),
    "start-16": Start("half of 16 CPUs", Shape(cores=4), 8, Target("≤", 1.0)),
    "start-32": Start("half of 32 CPUs", Shape(cores=8), 16, Target("≤", 0.7)),
}


def _figures(name: str, times: Sequence[Times], target: Target | None) -> list[Figure]:
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
