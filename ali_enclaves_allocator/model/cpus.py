"""CPU lists as the kernel writes them: "0-3,6,8-9" to numbers and back.

The grammar is that of cpuset(7), "List format", and of the kernel's bitmap_parselist(): commas or white space
between regions, each a number, a range, or the first part of every group of a range ("0-7:2/4" is 0-1,4-5).
Left out are what the kernel takes but never prints and people misread: "all", "N" and leading zeros.
"""

import re
from collections.abc import Iterable, Iterator

MAX_CPUS = 8192
"""No kernel can be built for more (CONFIG_NR_CPUS), so a higher number is a mistake."""

_NUMBER = "(0|[1-9][0-9]*)"
_REGION = re.compile(rf"{_NUMBER}(?:-{_NUMBER}(?::{_NUMBER}/{_NUMBER})?)?")


def parse(text: str) -> tuple[int, ...]:
    """Return the CPU numbers in `text`, ascending and each once; the list may be empty.

    Raises:
        ValueError: the text is no such list; carries a sentence for the user.
    """
    regions = text.replace(",", " ").split()
    return tuple(sorted(set[int]().union(*map(_region, regions))))


def format(cpus: Iterable[int]) -> str:
    """Return the shortest list of ranges that names exactly these CPUs: "2-3,6-7"."""
    return ",".join(f"{first}-{last}" if first < last else f"{first}" for first, last in _runs(cpus))


def named(cpus: Iterable[int]) -> str:
    """Name CPUs in a sentence: "CPU 1", "CPUs 2-3,6-7", "no CPUs"."""
    members = set(cpus)
    if not members:
        return "no CPUs"
    return f"CPU{'s' * (len(members) != 1)} {format(members)}"


def are(cpus: Iterable[int]) -> str:
    """Name CPUs of which something is told: "CPU 1 is", "CPUs 2-3,6-7 are"."""
    members = set(cpus)
    return f"{named(members)} {'is' if len(members) == 1 else 'are'}"


def counted(number: int) -> str:
    """Say how many CPUs: "1 CPU", "2 CPUs"."""
    return f"{number} CPU{'s' * (number != 1)}"


def _region(region: str) -> Iterable[int]:
    match = _REGION.fullmatch(region)
    if not match:
        raise ValueError(f'"{region:.40}" is not a CPU number or range; wanted a list such as 2-3,6-7')
    first, last = _bounded(match[1]), _bounded(match[2] or match[1])
    if first > last:
        raise ValueError(f'"{region}" runs backwards; did you mean {last}-{first}?')
    if not match[3]:
        return range(first, last + 1)
    used, group = _bounded(match[3]), _bounded(match[4])
    if not used <= group > 0:
        raise ValueError(f'"{region}" takes {used} of every {counted(group)}; wanted a part of at least one')
    return (cpu for cpu in range(first, last + 1) if (cpu - first) % group < used)


def _bounded(number: str) -> int:
    if len(number) > len(str(MAX_CPUS)) or int(number) >= MAX_CPUS:
        raise ValueError(f"{number:.20} is too high; the highest CPU of any kernel is {MAX_CPUS - 1}")
    return int(number)


def _runs(cpus: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield the first and last CPU of each unbroken run, ascending."""
    members = set(cpus)
    firsts = sorted(cpu for cpu in members if cpu - 1 not in members)
    lasts = sorted(cpu for cpu in members if cpu + 1 not in members)
    return zip(firsts, lasts, strict=True)
