"""Reserving pages where memory is in pieces, five levels of it, against one write, as the peers do."""

from pathlib import Path
from statistics import median

from tests.bench.figures import Figure, Plot, Result, Target
from tests.bench.in_guest import Times
from tests.bench.in_guest import measure as in_guest
from tests.bench.row import Options

TIMES = 4
FRAGMENTER = Path(__file__).parents[2] / "vm" / "scripts" / "hugepages.py"


def measure(_options: Options) -> Result:
    """Count the pages that each way gets of nine tenths of a node's free memory."""
    times = in_guest("fragmented", TIMES, script="fragmented.py", files=[FRAGMENTER])
    levels = sorted(int(key.removesuffix("_ours")) for key in times[0] if key.endswith("_ours"))
    curves = {
        curve: [(float(level), median(one[f"{level}_{key}"] / one["asked"] for one in times)) for level in levels]
        for key, curve in (("ours", "ours"), ("theirs", "one write"))
    }
    plot = Plot("Nine tenths of a node's free memory as 2M pages", "% of it in pieces", "part that is got", curves)
    return Result([_figure(level, times) for level in levels], {"fragmented": plot})


def _figure(level: int, times: list[Times]) -> Figure:
    """Compare the pages that were got at one level."""
    ratios = [one[f"{level}_ours"] / max(1, one[f"{level}_theirs"]) for one in times]
    told = "; ".join(f"{one[f'{level}_ours']:.0f} against {one[f'{level}_theirs']:.0f}" for one in times)
    return Figure(
        f"pages got with {level} % in pieces",
        "one write, as the peers do",
        median(ratios),
        pairs=len(times),
        target=Target("≥", 1.0),
        note=f"of {times[0]['asked']:.0f} asked for: {told}",
    )
