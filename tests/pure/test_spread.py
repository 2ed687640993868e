"""Spreads and whole cores against trying everything, on many more small cases than whole machines would give."""

from collections import Counter
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from ali_enclaves_allocator.model.choice import on_every_node, reachable, whole_cores
from ali_enclaves_allocator.model.spread import KEPT, Part, cheapest, largest, split, spreads
from ali_enclaves_allocator.model.topology import Core
from tests.pure.exhaustive import sums


@st.composite
def some_cores(draw: st.DrawFn, most: int = 8) -> list[Core]:
    """Draw cores of one to three CPUs on up to three nodes, in any ranking."""
    shapes = draw(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2)), min_size=1, max_size=most))
    return [Core(tuple(range(3 * at, 3 * at + width)), node) for at, (width, node) in enumerate(shapes)]


def width(cores: tuple[Core, ...]) -> int:
    return sum(len(core.cpus) for core in cores)


@settings(max_examples=300, deadline=None)
@given(some_cores(6), st.integers(1, 20), st.data())
def test_a_core_of_every_node_whenever_there_is_a_way(ranked: list[Core], wanted: int, data: st.DataObject) -> None:
    kept = data.draw(st.lists(st.sampled_from(ranked), unique=True, max_size=2))
    nodes = {core.node for core in ranked}
    picked = on_every_node(ranked, kept, wanted)
    possible = wanted in sums(([core for core in ranked if core.node == node] for node in nodes), frozenset(kept))
    assert bool(picked) == possible
    if picked:
        assert (width(picked), {core.node for core in picked}) == (wanted, nodes)
        assert set(kept) <= set(picked) <= set(ranked)
        assert len(set(picked)) == len(picked)


@settings(deadline=None)
@given(some_cores(), st.integers(1, 20))
def test_the_first_of_the_ranking_where_possible(ranked: list[Core], wanted: int) -> None:
    ways = [
        tuple(picked)
        for size in range(1, len(ranked) + 1)
        for picked in combinations(ranked, size)
        if width(tuple(picked)) == wanted
    ]
    first = min(ways, key=lambda way: [core not in way for core in ranked], default=())
    assert whole_cores(ranked, wanted) == first


@st.composite
def some_parts(draw: st.DrawFn) -> list[Part]:
    """Draw up to six nodes, of which no two need be alike; only needed ones have a least of their own."""
    floor = draw(st.integers(0, 1))
    parts = []
    for node in range(draw(st.integers(1, 6))):
        cores = [Core((0,) * draw(st.integers(1, 2)), node) for _ in range(draw(st.integers(1, 3)))]
        needed = draw(st.integers(0, 5)) == 0
        least = floor + needed * draw(st.integers(0, 2))
        parts.append(
            Part(
                node=node,
                counts=reachable(cores)[0] & ~1,
                least=least,
                most=least + draw(st.integers(0, 6)),
                cost=(draw(st.integers(-1, 0)), draw(st.integers(0, 2))),
                needed=needed,
            )
        )
    return parts


def every_fit(parts: list[Part], wanted: int, pages: int, most_nodes: int) -> list[tuple[Part, ...]]:
    """Return every set of parts that has exactly the CPUs and may have exactly the pages."""
    return [
        some
        for size in range(1, most_nodes + 1)
        for some in combinations(parts, size)
        if {part.node for part in parts if part.needed} <= {part.node for part in some}
        and wanted in sums_of(some)
        and sum(part.least for part in some) <= pages <= sum(part.most for part in some)
    ]


def sums_of(some: tuple[Part, ...]) -> set[int]:
    counts = {0}
    for part in some:
        counts = {a + b for a in counts for b in range(part.counts.bit_length()) if part.counts >> b & 1}
    return counts


@settings(max_examples=200, deadline=None)
@given(some_parts(), st.integers(1, 12), st.integers(1, 16), st.integers(1, 6))
def test_the_cheapest_of_every_set_of_nodes(parts: list[Part], wanted: int, pages: int, most_nodes: int) -> None:
    found = spreads(parts, wanted, pages, most_nodes)
    best = cheapest(found, wanted, pages)
    fits = every_fit(parts, wanted, pages, most_nodes)
    costs = [
        (len(some), tuple(map(sum, zip(*(part.cost for part in some), strict=True))), tuple(p.node for p in some))
        for some in fits
    ]
    assert (best and (len(best.nodes), best.cost, best.nodes)) == min(costs, default=None)
    for cpus, some_pages, nodes in largest(found, pages):
        fitting = every_fit(parts, cpus, some_pages, most_nodes)
        assert nodes in [tuple(part.node for part in some) for some in fitting], "what is named fits"


def test_of_2_to_the_20_sets_none_of_which_beats_another_few_are_kept() -> None:
    core = reachable([Core((0, 1), 0)])[0] & ~1
    parts = [Part(node, core, least=1, most=1 << node, cost=(1 << node,)) for node in range(20)]
    seen = spreads(parts, 20, 1 << 20, 20)
    by_size = Counter(len(spread.nodes) for spread in seen)
    assert max(by_size.values()) == KEPT
    for size in range(1, 11):
        most = sum(1 << node for node in range(20 - size, 20))
        found = cheapest(seen, 2 * size, most)
        assert found and found.nodes == tuple(range(20 - size, 20)), "even the only one that has the memory"
        assert cheapest(seen, 2 * size, most + 1) is None or size < 10


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 5), st.integers(0, 20)), min_size=1, max_size=5), st.data())
def test_a_split_is_in_proportion_within_its_bounds(nodes: list[tuple[int, int, int]], data: st.DataObject) -> None:
    weight = {node: weight for node, (weight, _, _) in enumerate(nodes)}
    least = {node: least for node, (_, least, _) in enumerate(nodes)}
    most = {node: least + more for node, (_, least, more) in enumerate(nodes)}
    pages = data.draw(st.integers(sum(least.values()), sum(most.values())))
    parts = split(pages, weight, least, most)
    assert sum(parts.values()) == pages
    assert all(least[node] <= part <= most[node] for node, part in parts.items())
    total = sum(weight.values())
    wish = {node: pages * part / total for node, part in weight.items()}
    if all(least[node] <= wish[node] - 1 and wish[node] + len(nodes) <= most[node] for node in wish):
        assert all(abs(parts[node] - wish[node]) < len(nodes) for node in wish)
