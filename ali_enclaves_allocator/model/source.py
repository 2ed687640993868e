"""A file that a user wrote: where each of its keys stands, and problems told at their place.

/etc/ali-enclaves/allocator.yaml:3:12: cpu_count: must be a whole number of CPUs, got the string "two"
    cpu_count: two
               ^
"""

from dataclasses import dataclass, field
from typing import NamedTuple

MAX_SHOWN = 100
"""Characters of a source line that are shown; a longer one is cut around the caret."""


class Position(NamedTuple):
    """A place in the file; lines and columns (in characters) count from 1."""

    line: int
    column: int


class Entry(NamedTuple):
    """One key of the file with its value, where both stand, and the value in words (`got`) for messages."""

    key: str
    key_at: Position
    value: object
    value_at: Position
    got: str


@dataclass(frozen=True)
class ConfigProblem:
    """One problem at its place in the file; without a source line it is about the whole file."""

    path: str
    line: int
    column: int
    key: str
    message: str
    source_line: str
    """The line as a terminal may show it: escaped, and cut around the caret when long."""
    caret: int
    """Where the caret stands under the source line, counted from 0."""

    def __str__(self) -> str:
        subject = f"{self.key}: " if self.key else ""
        told = f"{self.path}:{self.line}:{self.column}: {subject}{self.message}"
        return f"{told}\n    {self.source_line}\n    {' ' * self.caret}^" if self.source_line else told


@dataclass
class Source:
    """The text of a file and the entries read from it."""

    path: str
    lines: list[str]
    entries: dict[str, Entry] = field(default_factory=dict)
    complete: bool = False
    """Whether the file was read to its end, so that a key not in `entries` is not in the file."""

    def problem(self, key: str, message: str) -> ConfigProblem:
        """Return a problem with the value of this key, or with the whole file when the key is not in it."""
        return self.problem_at(self.entries[key].value_at if key in self.entries else None, key, message)

    def problem_at(self, at: Position | None, key: str, message: str) -> ConfigProblem:
        """Return a problem at this place, or with the whole file."""
        path, key, message = printable(self.path), shortened(key), printable(message)
        if at is None:
            return ConfigProblem(path, 1, 1, key, message, "", 0)
        line, caret = self.lines[at.line - 1], at.column - 1
        first = max(0, caret - MAX_SHOWN // 2)
        last = first + MAX_SHOWN
        before = "…" * (first > 0) + printable(line[first:caret])
        after = printable(line[caret:last]) + "…" * (len(line) > last)
        return ConfigProblem(path, *at, key, message, before + after, len(before))


def printable(text: str) -> str:
    """Return the text with everything that could upset a terminal as an escape."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def shortened(text: str) -> str:
    """Return the text printable, and cut when long, to be named in a message."""
    return printable(text[:40]) + "…" * (len(text) > 40)
