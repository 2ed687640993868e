"""Choosing whole cores that make up an exact number of CPUs. Pure."""

from collections.abc import Sequence

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


def reachable(cores: Sequence[Core]) -> list[int]:
    """For each tail of `cores`, the CPU counts that whole cores of it can make up, as the bits of a number."""
    sums = [1]
    for core in reversed(cores):
        sums.append(sums[-1] | sums[-1] << len(core.cpus))
    return sums[::-1]
