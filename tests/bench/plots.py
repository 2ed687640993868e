"""Plots as SVG files, the same bytes for the same figures."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure as Canvas

from tests.bench.figures import Plot

STYLE = {"svg.hashsalt": "performance", "svg.fonttype": "none", "font.size": 9}


def draw(plot: Plot, file: Path) -> None:
    """Draw curves on the same axes."""
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(6.4, 3.6), layout="constrained")
        axes = canvas.subplots()
        for marker, (name, points) in zip("osD^v*", plot.curves.items(), strict=False):
            axes.plot(*zip(*points, strict=True), marker=marker, label=name)
        if plot.logarithmic:
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.set(title=plot.title, xlabel=plot.x, ylabel=plot.y)
        axes.grid(alpha=0.3)
        axes.legend()
        canvas.savefig(file, metadata={"Date": None})
