"""`systemctl start` with ever more memory, ours, the peer's and the bare sequence: what each GiB costs."""

from collections.abc import Sequence
from statistics import median

from tests.bench.figures import Figure, Plot, Result, seconds
from tests.bench.in_guest import Shape
from tests.bench.in_guest import measure as in_guest
from tests.bench.row import Options
from tests.bench.rows.start import AGAINST

SIZES_MIB = (256, 1024, 2048)
TIMES = 3
"""Of each size: the figure is a slope through all of them."""

CURVES = {"ours": "ours", "theirs": AGAINST, "bare": "the bare sequence, held"}


def measure(options: Options) -> Result:
    """Start both in turns, for each size in a guest of its own, all of the same shape."""
    files = options.peer_files()
    points: dict[str, list[tuple[float, float]]] = {}
    for memory_mib in SIZES_MIB:
        keys = {"memory_mib": memory_mib, "cpu_count": 2, "peer": int(bool(files))}
        times = in_guest("start", TIMES, shape=Shape(memory_mib=8192), files=files, **keys)
        for one in times:
            one["bare"] = one["bare_settings"] + one["bare_hold"]
        for key, curve in CURVES.items():
            if key in times[0]:
                points.setdefault(curve, []).append((memory_mib / 1024, median(one[key] for one in times)))
    plot = Plot("systemctl start, 8 CPUs, in emulation", "GiB of the pool", "seconds", points)
    ours, bare = slope(points["ours"]), slope(points[CURVES["bare"]])
    each = f"{seconds(ours)} for each against {seconds(bare)}"
    if AGAINST in points:
        each += f"; {AGAINST}, which clears nothing: {seconds(slope(points[AGAINST]))}"
    figure = Figure("each GiB more of a start", "the bare sequence, in C", ours / bare, pairs=TIMES, note=each)
    return Result([figure], {"memory": plot})


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return how much y grows for each x, by least squares."""
    mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
