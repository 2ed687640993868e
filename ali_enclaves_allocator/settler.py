"""The settler: holds again what leases leave over or give back, while others have their turns. See change/leases.py."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TypeVar

from ali_enclaves_allocator.change.leases import is_settled, settle
from ali_enclaves_allocator.change.ledger import Ledger
from ali_enclaves_allocator.kernel.doors import Kernel
from ali_enclaves_allocator.model.errors import AllocatorError
from ali_enclaves_allocator.model.events import REFUSED

log = logging.getLogger(__name__)

T = TypeVar("T")

MOMENT_SECONDS = 0.1
"""How long settling may keep others from a change."""


class PoolOwner(Protocol):
    """What the settler asks of whoever owns the pool."""

    async def change(self, work: Callable[[], T]) -> T:
        """Do blocking work, one piece at a time, to its end even when the caller is cancelled."""

    def look(self) -> None:
        """Compare the pool with the kernel anew."""


class Settler:
    """Settles the banks in a task of its own."""

    def __init__(self, kernel: Kernel, ledger: Ledger, owner: PoolOwner) -> None:
        self._kernel, self._ledger, self._owner = kernel, ledger, owner
        self.tasks: set[asyncio.Task[None]] = set()
        """What is under way, if anything."""
        self._refusal = ""

    async def done(self) -> None:
        """Settle, and return when that is done, as far as it can be. Others have their turns."""
        self.soon()
        if self.tasks:
            await asyncio.wait(self.tasks)

    def soon(self) -> None:
        """Settle, unless there is nothing to do.

        Where that cannot be seen, such as for want of descriptors, the next look tries again.
        """
        with suppress(OSError):
            if not (self.tasks or is_settled(self._ledger.record.pool, self._kernel)):
                self.tasks.add(asyncio.ensure_future(self._settle()))

    async def _settle(self) -> None:
        """Settle for a moment at a time, until all is done that can be done."""
        settled = False
        most = sum(bank.pages for bank in self._ledger.record.pool.banks)  # each time moves a page
        try:
            while not await self._owner.change(self._settle_some) and most > 0:
                most -= 1
                await asyncio.sleep(0)  # what waits for its turn is not only changes
            with suppress(OSError):
                settled = is_settled(self._ledger.record.pool, self._kernel)
        except AllocatorError as error:
            self._tell_once(error)
        finally:
            self.tasks.clear()
        if settled:
            self._owner.look()

    def _settle_some(self) -> bool:
        return settle(self._ledger.record.pool, self._kernel, MOMENT_SECONDS)

    def _tell_once(self, error: AllocatorError) -> None:
        """Log why something could not be done, unless that was the last thing said."""
        if self._refusal != str(error):
            log.error("%s", error, extra=REFUSED)
        self._refusal = str(error)
