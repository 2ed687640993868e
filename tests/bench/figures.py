"""Figures: what a row of the benchmark found, as values, and the arithmetic of them. It measures nothing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import log
from statistics import median, quantiles

MILLISECOND = 1e-3


@dataclass(frozen=True)
class Pair:
    """One of ours and one of theirs, done one right after the other: seconds, unless the row says what."""

    ours: float
    theirs: float


@dataclass(frozen=True)
class Target:
    """What a figure is wanted to be: at most a value, or at least one."""

    sign: str
    """`≤` or `≥`"""
    value: float

    def met(self, figure: float) -> bool:
        """Tell whether a figure is what is wanted."""
        return figure <= self.value if self.sign == "≤" else figure >= self.value

    def __str__(self) -> str:
        return f"{self.sign} {self.value:g}"


@dataclass(frozen=True)
class Figure:
    """One line of the table. Without a value it was not measured, and the note says why."""

    work: str
    against: str
    value: float | None = None
    unit: str = "×"
    spread: tuple[float, float] | None = None
    """The quartiles of the pairs."""
    pairs: int = 0
    target: Target | None = None
    note: str = ""
    """What belongs beside the number, such as the times behind a ratio."""

    @property
    def verdict(self) -> str:
        """Whether the target is met."""
        if self.target is None:
            return "—"
        if self.value is None:
            return "not measured"
        return "met" if self.target.met(self.value) else "missed"


@dataclass(frozen=True)
class Plot:
    """Curves on the same axes: by the name of each, its points."""

    title: str
    x: str
    y: str
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    logarithmic: bool = False


@dataclass(frozen=True)
class Result:
    """What a row found, when and on which machine."""

    figures: list[Figure]
    plots: dict[str, Plot] = field(default_factory=dict)
    """By the name of the file, without its ending."""
    profile: str = ""
    """Lines that show where the time goes, or the floor that forbids a target."""
    machine: str = ""
    date: str = ""
    command: str = ""


def merged(results: Iterable[Result]) -> dict[str, Plot]:
    """Return all plots by their names; of one that several rows have a part of, the curves joined."""
    found: dict[str, Plot] = {}
    for name, plot in (item for result in results for item in result.plots.items()):
        before = found.get(name, replace(plot, curves={})).curves
        names = before | plot.curves
        found[name] = replace(plot, curves={key: before.get(key, []) + plot.curves.get(key, []) for key in names})
    return found


def slower(pairs: Sequence[Pair]) -> list[float]:
    """Return how many times theirs each of ours takes."""
    return [pair.ours / pair.theirs for pair in pairs]


def faster(pairs: Sequence[Pair]) -> list[float]:
    """Return how many times ours each of theirs takes."""
    return [pair.theirs / pair.ours for pair in pairs]


def ratio(
    work: str, against: str, pairs: Sequence[Pair], target: Target | None, *, is_faster: bool = False, note: str = ""
) -> Figure:
    """Return the median ratio of pairs as a figure, with the times that it comes from."""
    ratios = faster(pairs) if is_faster else slower(pairs)
    ours, theirs = median(pair.ours for pair in pairs), median(pair.theirs for pair in pairs)
    times = f"{seconds(ours)} against {seconds(theirs)}"
    return Figure(
        work,
        against,
        median(ratios),
        spread=quartiles(ratios),
        pairs=len(pairs),
        target=target,
        note=f"{times}; {note}" if note else times,
    )


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """Return the first and the third quartile; of one value, that."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, high


def seconds(value: float) -> str:
    """Write a time with three digits that mean something."""
    if value < MILLISECOND:
        return f"{value * 1e6:.3g} µs"
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """Return how a quantity grows: 1 is linear, 2 quadratic.

    It is the slope between the logarithms, by least squares.
    """
    xs, ys = [log(x) for x, _ in points], [log(y) for _, y in points]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    above = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return above / sum((x - mean_x) ** 2 for x in xs)
