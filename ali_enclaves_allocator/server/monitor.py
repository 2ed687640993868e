"""The monitor: notices that somebody changed what the pool depends on.

CPUs announce themselves by uevents, through pyudev; hugepage counters have no event, so a slow timer re-reads
them. An event is a hint and never believed: whoever is told reads sysfs again.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyudev

SLOW_SECONDS = 30.0
"""How often to look at what has no event."""


class Monitor:
    """Calls `look` from the event loop whenever something may have changed.

    It begins after READY, which it would only delay: pyudev has many modules, and forks to find its library.
    """

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self._uevents: pyudev.Monitor | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start listening on the running event loop, and look in its next turn, for nobody heard what came before."""
        import pyudev

        self._uevents = pyudev.Monitor.from_netlink(pyudev.Context(), source="kernel")
        self._uevents.filter_by("cpu")
        self._uevents.start()
        asyncio.get_running_loop().add_reader(self._uevents.fileno(), self._on_uevents, self._uevents)
        self._timer = asyncio.get_running_loop().call_later(0, self._on_timer)

    def stop(self) -> None:
        """Stop listening; nothing of it is left on the loop. The socket closes with the last reference to it."""
        if self._uevents and self._timer:
            asyncio.get_running_loop().remove_reader(self._uevents.fileno())
            self._timer.cancel()
            self._uevents = None

    def _on_uevents(self, uevents: "pyudev.Monitor") -> None:
        """Take every event that waits, then look once."""
        try:
            while uevents.poll(timeout=0):
                pass
        except OSError:  # the queue overflowed (ENOBUFS): all the more reason to look
            pass
        self._look()

    def _on_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(SLOW_SECONDS, self._on_timer)
        self._look()
