"""Spreading a pool over nodes: which nodes to take, and how many pages of each. Pure.

Trying every set of nodes takes 2^n attempts. Instead the sets grow node by node, and of those with the same number
of nodes and the same CPU counts only the ones are kept that no other beats in both memory and cost. The one with
the most memory is always kept, so a spread is found whenever one exists; and the cheapest one is found, unless
more than KEPT of them compete. The work is bounded by nodes² × CPU counts × KEPT.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ali_enclaves_allocator.model.choice import together

KEPT = 32
"""Sets of nodes that are kept of those with the same CPU counts. All subsets of 6 nodes are fewer."""


@dataclass(frozen=True)
class Part:
    """What one node can give to a pool that it is part of."""

    node: int
    counts: int
    """The CPU counts that whole cores of it can make up, as the bits of a number (`choice`)."""
    least: int
    most: int
    """Pages."""
    cost: tuple[int, ...]
    """What speaks against it, the first number most; costs add up."""
    needed: bool = False
    """Whether no spread may be without it."""


class Spread(NamedTuple):
    """Some nodes, and what they can give together."""

    nodes: tuple[int, ...] = ()
    counts: int = 1
    least: int = 0
    most: int = 0
    cost: tuple[int, ...] = ()

    def with_part(self, part: Part, counts: int, pages: int) -> "Spread":
        """Return this spread over one more node, which makes these counts. More pages than asked do not matter."""
        return Spread(
            tuple(sorted((*self.nodes, part.node))),
            counts,
            self.least + part.least,
            min(pages, self.most + part.most),
            tuple(map(sum, zip(self.cost, part.cost, strict=True))) if self.cost else part.cost,
        )


def spreads(parts: Sequence[Part], wanted: int, pages: int, most_nodes: int) -> list[Spread]:
    """Return the spreads worth considering for `wanted` CPUs and `pages`, over at most so many nodes.

    Parts that are not needed have the same least, so that sets of as many nodes have it too.
    """
    found: dict[tuple[int, int], list[Spread]] = {(0, 1): [Spread()]}
    for part in parts:
        grown = {} if part.needed else {key: list(some) for key, some in found.items()}
        for (number, former), some in found.items():
            counts = together(former, part.counts) & (2 << wanted) - 1  # more CPUs than wanted do not matter
            if counts and number < most_nodes:
                more = [spread.with_part(part, counts, pages) for spread in some]
                grown.setdefault((number + 1, counts), []).extend(more)
        found = {key: _unbeaten(some) for key, some in grown.items()}
    return [spread for some in found.values() for spread in some if spread.nodes]


def cheapest(found: Iterable[Spread], wanted: int, pages: int) -> Spread | None:
    """Return the spread over the fewest nodes, then of the least cost, then of the lowest ids, that has all of it."""
    fits = [spread for spread in found if spread.counts >> wanted & 1 and spread.least <= pages <= spread.most]
    return min(fits, key=lambda spread: (len(spread.nodes), spread.cost, spread.nodes), default=None)


def largest(found: Iterable[Spread], pages: int) -> list[tuple[int, int, tuple[int, ...]]]:
    """Return the largest requests that would fit, none of them smaller than another: CPUs, pages and nodes.

    At most three of those: with the most CPUs, with the most pages, and one in between.
    """
    requests = sorted(
        (-(spread.counts.bit_length() - 1), -min(spread.most, pages), len(spread.nodes), spread.nodes)
        for spread in found
        if spread.least <= min(spread.most, pages)
    )
    front: list[tuple[int, int, tuple[int, ...]]] = []
    for cpus, most, _, nodes in requests:
        if not front or -most > front[-1][1]:
            front.append((-cpus, -most, nodes))
    return front if len(front) <= 3 else [front[0], front[len(front) // 2], front[-1]]


def split(pages: int, weight: Mapping[int, int], least: Mapping[int, int], most: Mapping[int, int]) -> dict[int, int]:
    """Return pages by node in proportion to its weight, as far as each node's bounds allow; they allow the sum."""
    total = sum(weight.values())
    parts = {node: min(max(pages * part // total, least[node]), most[node]) for node, part in weight.items()}
    for node in sorted(parts, key=lambda node: (-weight[node], node)):
        missing = pages - sum(parts.values())
        parts[node] = min(max(parts[node] + missing, least[node]), most[node])
    return parts


def _unbeaten(some: Iterable[Spread]) -> list[Spread]:
    """Return those with more pages than every cheaper one, at most KEPT, the one with the most pages among them."""
    front: list[Spread] = []
    for spread in sorted(some, key=lambda spread: (spread.cost, spread.nodes)):
        if not front or spread.most > front[-1].most:
            front.append(spread)
    return front if len(front) <= KEPT else [*front[: KEPT - 1], front[-1]]
