"""Choosing whole cores that make up an exact number of CPUs. Pure.

Sets of CPU counts are the bits of a number: bit 4 is set where some cores have 4 CPUs together. That keeps the
question "can these cores make up exactly so many" linear in the cores, however many there are.
"""

from collections.abc import Iterable, Sequence

from ali_enclaves_allocator.model.topology import Core


def whole_cores(ranked: Sequence[Core], wanted: int) -> tuple[Core, ...]:
    """Return cores with exactly `wanted` CPUs, the first of the ranking where possible; empty when impossible."""
    picked = []
    for core, rest in zip(ranked, reachable(ranked)[1:], strict=True):
        left = wanted - len(core.cpus)
        if left >= 0 and rest >> left & 1:
            picked.append(core)
            wanted = left
    return tuple(picked) if wanted == 0 else ()


def on_every_node(ranked: Sequence[Core], kept: Iterable[Core], wanted: int) -> tuple[Core, ...]:
    """Return `kept` and others with exactly `wanted` CPUs, at least one core of each node that `ranked` has.

    The first of the ranking where possible; empty when impossible.
    """
    picked = list(kept)
    rest = [core for core in ranked if core not in picked]
    left = wanted - sum(len(core.cpus) for core in picked)
    bare = sorted({core.node for core in rest} - {core.node for core in picked})
    while bare:
        node = bare.pop(0)
        widths = {len(core.cpus): core for core in reversed(rest) if core.node == node}
        for first in sorted(widths.values(), key=rest.index):
            others = [core for core in rest if core != first]
            if _can_make(others, bare, left - len(first.cpus)):
                picked.append(first)
                rest, left = others, left - len(first.cpus)
                break
        else:
            return ()
    more = whole_cores(rest, left)
    return (*picked, *more) if sum(len(core.cpus) for core in more) == left else ()


def _can_make(cores: Iterable[Core], bare: Iterable[int], wanted: int) -> bool:
    """Whether some of the cores, at least one of each bare node, have exactly `wanted` CPUs."""
    if wanted < 0:
        return False
    by_node: dict[int, list[Core]] = {}
    for core in cores:
        by_node.setdefault(core.node, []).append(core)
    counts = 1
    for node, here in by_node.items():
        some = reachable(here)[0]
        counts = together(counts, some & ~1 if node in bare else some) & (2 << wanted) - 1
    return bool(counts >> wanted & 1)


def together(one: int, other: int) -> int:
    """Return the sums of a count of one set and a count of the other."""
    sums = 0
    while other:
        lowest = other & -other
        sums |= one * lowest
        other ^= lowest
    return sums


def reachable(cores: Sequence[Core]) -> list[int]:
    """For each tail of `cores`, the CPU counts that whole cores of it can make up, as the bits of a number."""
    sums = [1]
    for core in reversed(cores):
        sums.append(sums[-1] | sums[-1] << len(core.cpus))
    return sums[::-1]
