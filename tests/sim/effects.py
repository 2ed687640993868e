"""Effects: every change of state of the machine or of the ledger, counted, and what goes wrong at which.

A test first runs a scenario to learn its effects, then runs it again once for each effect with a fault there.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Action = Callable[[], None]

Mark = int | str
"""An effect by its number, from 0, or by how its name begins."""


class Died(BaseException):
    """The process is gone, as by kill -9: no line of it runs any more."""


class Effects:
    """The effects of one process, in order, and the actions planned around some of them."""

    def __init__(self) -> None:
        self.watch: Action = lambda: None
        """What is checked after each effect, of every process."""
        self.restart()

    def restart(self) -> None:
        """Begin with a new process: nothing planned, nothing counted."""
        self.names: list[str] = []
        self._before: dict[Mark, Action] = {}
        self._after: dict[Mark, Action] = {}
        self._dead = False

    @contextmanager
    def effect(self, name: str) -> Iterator[None]:
        """Do one effect; a fault before it leaves it undone, one after it is too late."""
        if self._dead:
            raise Died
        number = len(self.names)
        self.names.append(name)
        _act(self._before, number, name)
        try:
            yield
        finally:  # one that the kernel refused is an effect, too
            self.watch()
            _act(self._after, number, name)

    def before(self, mark: Mark, action: Action) -> None:
        """Plan what happens just before an effect: somebody else's deed, or a fault."""
        self._before[mark] = action

    def after(self, mark: Mark, action: Action) -> None:
        """Plan what happens just after an effect."""
        self._after[mark] = action

    def fail(self, mark: Mark, code: int) -> None:
        """Plan that an effect fails with this errno, every time if it is marked by name."""

        def refuse() -> None:
            raise OSError(code, os.strerror(code))

        self.before(mark, refuse)

    def die_before(self, mark: Mark) -> None:
        """Plan the death of the process just before an effect."""
        self.before(mark, self._die)

    def die_after(self, mark: Mark) -> None:
        """Plan the death of the process just after an effect."""
        self.after(mark, self._die)

    def _die(self) -> None:
        self._dead = True
        raise Died


def _act(plans: dict[Mark, Action], number: int, name: str) -> None:
    """Do what is planned for this effect."""
    for mark in list(plans):
        if mark == number or (isinstance(mark, str) and name.startswith(mark)):
            plans[mark]()
