"""What a row of the benchmark is: one work, measured against something, in a module of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench.figures import Result

LEAST_PAIRS = 7


@dataclass(frozen=True)
class Options:
    """What a run is asked for."""

    pairs: int = LEAST_PAIRS
    peer: Path | None = None
    """The AWS allocator's program, which is no part of the project."""

    def peer_files(self) -> list[Path]:
        """Return the peer's program and the packages that it needs, which lie beside it; nothing without it."""
        return [self.peer, *sorted(self.peer.parent.glob("*.deb"))] if self.peer else []


@dataclass(frozen=True)
class Row:
    """A row by what it measures, and how."""

    measure: Callable[[Options], Result]
    in_guest: bool = False
    """Whether it boots a guest, and so takes minutes."""
