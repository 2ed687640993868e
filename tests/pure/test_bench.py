"""The arithmetic of the benchmark, and its table: what is published must be what was found."""

import pytest

from tests.bench.figures import Figure, Pair, Plot, Result, Target, exponent, merged, quartiles, ratio, seconds
from tests.bench.page import page, table

PAIRS = [Pair(2, 1), Pair(3, 1), Pair(100, 1), Pair(4, 2), Pair(9, 3)]


def test_a_ratio_is_the_median_of_the_pairs_and_no_disturbance_moves_it() -> None:
    figure = ratio("work", "peer", PAIRS, Target("≤", 3))
    assert (figure.value, figure.pairs, figure.spread, figure.verdict) == (3, 5, (2, 3), "met")
    assert figure.note == "4 s against 1 s"


def test_faster_is_the_other_way_round() -> None:
    figure = ratio("work", "peer", [Pair(1, 2), Pair(1, 4), Pair(2, 6)], Target("≥", 3.5), is_faster=True)
    assert (figure.value, figure.verdict) == (3, "missed")


@pytest.mark.parametrize(
    ("value", "target", "verdict"),
    [
        (1.5, Target("≤", 1.5), "met"),
        (1.6, Target("≤", 1.5), "missed"),
        (3.0, Target("≥", 3.0), "met"),
        (2.9, Target("≥", 3.0), "missed"),
        (2.9, None, "—"),
        (None, Target("≥", 3.0), "not measured"),
    ],
)
def test_a_target_is_met_or_missed(value: float | None, target: Target | None, verdict: str) -> None:
    assert Figure("work", "peer", value, target=target).verdict == verdict


def test_growth() -> None:
    assert exponent([(x, 7 * x) for x in (1, 2, 4, 8)]) == pytest.approx(1)
    assert exponent([(x, 3 * x * x) for x in (1, 2, 4, 8)]) == pytest.approx(2)


def test_rows_join_their_curves() -> None:
    parts = [
        Plot("A plot", "x", "y", {"ours": [(1, 2)], "theirs": [(1, 3)]}),
        Plot("A plot", "x", "y", {"ours": [(4, 5)]}),
    ]
    whole = merged(Result([], {"one": part}) for part in parts)
    assert whole == {"one": Plot("A plot", "x", "y", {"ours": [(1, 2), (4, 5)], "theirs": [(1, 3)]})}


def test_quartiles_of_one() -> None:
    assert quartiles([5]) == (5, 5)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0000471, "47.1 µs"), (0.00376, "3.76 ms"), (0.4294, "429 ms"), (2.0, "2 s"), (12.34, "12.3 s")],
)
def test_times(value: float, text: str) -> None:
    assert seconds(value) == text


def test_the_page_says_all_that_was_found() -> None:
    missed = Figure("one work", "a peer", 1.234, spread=(1.1, 1.3), target=Target("≤", 1), note="2 s against 1 s")
    absent = Figure("another", "a peer", target=Target("≤", 1), note="no --peer")
    plot = Plot("A plot", "x", "y", {"ours": [(1, 2)]})
    result = Result([missed, absent], {"plot": plot}, "where it goes", "a machine", "2026-01-02", "a command")
    results = {"one": result, "two": Result([missed], machine="a machine", date="2026-01-02", command="a command")}
    lines = table(results).splitlines()
    assert lines[2] == "| one work | a peer | 1.23 × (1.1 … 1.3) | ≤ 1 | missed | 2 s against 1 s |"
    assert lines[3] == "| another | a peer | — | ≤ 1 | not measured | no --peer |"
    text = page(results, ["three"])
    assert text.endswith("\nNot run here yet: three.\n")
    assert "Not run" not in page(results)
    assert text.startswith("<!-- Written by `make bench`")
    assert "![A plot](performance/plot.svg)" in text
    assert "## one\n\n```\nwhere it goes\n```" in text
    assert "- one, two: 2026-01-02, `a command`, on a machine" in text
