"""The daemon's life: start, reload, stop, and the state in between. What it does to the machine is in line.py."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ali_enclaves_allocator import line, unit
from ali_enclaves_allocator.change.ledger import Ledger, Record
from ali_enclaves_allocator.kernel.doors import Kernel
from ali_enclaves_allocator.lender import Lender
from ali_enclaves_allocator.model.errors import AllocatorError, ShortGrant
from ali_enclaves_allocator.model.events import POOL_DEGRADED, POOL_KEPT, POOL_READY, REFUSED
from ali_enclaves_allocator.model.lease import Request
from ali_enclaves_allocator.model.pool import Drift, Lease, Pool, drift
from ali_enclaves_allocator.model.refusals import PoolNotReady, ReloadRefused
from ali_enclaves_allocator.model.tally import Tally
from ali_enclaves_allocator.server.contract import Peer
from ali_enclaves_allocator.server.endpoint import Endpoint, listens
from ali_enclaves_allocator.server.interface import PoolView, State
from ali_enclaves_allocator.server.monitor import Monitor
from ali_enclaves_allocator.server.service import Service
from ali_enclaves_allocator.server.views import pool_view, sentence, why

T = TypeVar("T")

log = logging.getLogger(__name__)

FRESH_SECONDS = 1.0
"""How old the counters in an answer may be."""

GIVE_BACK_SECONDS = 30.0
"""How long to wait for the ledger: a lease that ended while no service ran may be given back just now."""

EXTEND_SECONDS = 30
"""How much longer systemd is asked to wait while pages are cleared."""


@dataclass(frozen=True)
class Paths:
    """The files the daemon works with."""

    config: Path
    directory: Path

    @property
    def socket(self) -> Path:
        """The listening socket."""
        return self.directory / "allocator.sock"


class Daemon:
    """One allocator: its state, and the changes of it, one at a time."""

    def __init__(self, paths: Paths, kernel: Kernel, ledger: Ledger) -> None:
        self._paths, self._kernel, self._ledger = paths, kernel, ledger
        self._phase: State = "starting"
        self._reason: str | None = None
        self._drift: tuple[Drift, ...] = ()
        self._changing = asyncio.Lock()
        self._overlooked = False
        self._tally = Tally()
        self._view: PoolView | None = None
        self._view_of: Record | None = None
        self._view_at = 0.0
        self._service = Service(self)
        self._lender = Lender(kernel, ledger, self)
        self._endpoint: Endpoint | None = None
        self._monitor = Monitor(self.look)

    @property
    def state(self) -> State:
        """What the daemon is doing, and whether the pool is what the file asks."""
        if self._phase == "ready" and (self._reason or self._drift):
            return "degraded"
        return self._phase

    async def start(self) -> None:
        """Open the socket, bring the pool into being, and say READY.

        A refused file or request does not cost a pool that stands: it is served, degraded.

        Raises:
            AllocatorError: there is no pool; the machine is as it was.
        """
        inherited = unit.stored_socket()
        try:
            await asyncio.to_thread(self._take_ledger, is_successor=inherited is not None)
        except AllocatorError:
            if inherited:
                inherited.close()
            raise
        self._endpoint = Endpoint(self._paths.socket, self._service, inherited)
        await self._endpoint.open()
        try:
            await self.change(self._bring_into_force)
        except AllocatorError as error:
            if self._ledger.record.pool == Pool():
                raise
            self._refuse(error)
        self._lender.watch()
        self._phase = "ready"
        self.look()
        unit.store_socket(self._endpoint.listener)
        log.info("%s", self.view().summary, extra=POOL_DEGRADED if self.state == "degraded" else POOL_READY)
        unit.notify("READY=1")
        self._monitor.start()

    async def reload(self) -> None:
        """Read the file again and bring it into force, or change nothing.

        A refusal is shown until a file is in force: at the next boot this one would give no pool at all.

        Raises:
            AllocatorError: why not; the former pool stands.
        """
        try:
            await self.change(self._bring_into_force)
        except ReloadRefused as error:
            log.error("%s", error, extra=REFUSED)
            raise
        except AllocatorError as error:
            self._refuse(error)
            self.tell()
            raise
        self._reason = None
        self.look()
        log.info("%s", self.view().summary, extra=POOL_READY)

    async def acquire(self, request: Request, peer: Peer) -> tuple[Lease, int]:
        """Lend to the process that connected.

        Raises:
            AllocatorError: the pool is not ready, or the lender's reason; nothing was lent.
        """
        try:
            if self._phase != "ready":
                raise PoolNotReady(self._phase, "it is being changed")
            return await self._lender.acquire(request, peer)
        except AllocatorError as error:
            self._tally.refused(error)
            raise

    def require_ready(self) -> None:
        """Check that the pool is whole, as the kernel shows it now; called from within a change.

        Raises:
            PoolNotReady: the service starts or stops, an earlier change is unfinished, or the pool drifted.
        """
        if self._phase != "ready":
            raise PoolNotReady(self._phase, "it is being changed")
        record = self._ledger.record
        if record.phase != "idle":
            raise PoolNotReady("degraded", "an earlier change is unfinished, which a restart tries again")
        if found := drift(record.pool, self._kernel.sight(record.pool)):
            raise PoolNotReady("degraded", "; ".join(map(str, found)))

    async def release(self, id: str, peer: Peer) -> None:
        """End a lease; raises AllocatorError."""
        await self._lender.release(id, peer)

    def leases(self) -> tuple[Lease, ...]:
        """Return the leases that were granted, the oldest first."""
        return tuple(lease for lease in self._ledger.record.pool.leases if lease.granted)

    async def stop(self, keep: bool) -> None:
        """Give the pool back, or keep it for the successor. Whatever happens, nothing of the daemon is left.

        Raises:
            NotGivenBack: the kernel refused some of it.
        """
        self._phase = "stopping"
        self._monitor.stop()
        try:
            self.tell()
            if keep:
                log.info("the pool stays for the successor: %s", self._ledger.record.pool.describe(), extra=POOL_KEPT)
            else:
                await self.change(lambda: line.leave(self._kernel, self._ledger))
        finally:
            await self.close(keep)

    async def close(self, keep: bool = False) -> None:
        """Close the socket and let go of the ledger."""
        self._phase = "stopping"
        if self._endpoint:
            await self._endpoint.close(keep)
        await self._lender.close()
        self._ledger.close()

    def look(self) -> None:
        """Compare the pool with the kernel; tell systemd, the journal and the watchers what is new."""
        if self._changing.locked():
            self._overlooked = True
            return
        self._overlooked = False
        self._lender.retry()
        pool = self._ledger.record.pool
        found = drift(pool, self._kernel.sight(pool))
        for entry in found:
            if entry not in self._drift:
                log.warning("%s (repair: systemctl restart ali-enclaves-allocator)", entry, extra=POOL_DEGRADED)
        if self._drift and not found:
            log.info("the kernel shows what the pool needs again", extra=POOL_READY)
        self._drift = found
        self.tell()

    def _look_again(self) -> None:
        """Look at what came during a change, once whoever made it has noted its result."""
        if self._phase == "ready" and self._overlooked:
            self.look()

    def view(self) -> PoolView:
        """Return what GetPool answers, its counters at most a second old, of the pool that the ledger has now."""
        record = self._ledger.record
        if self._view is None or self._view_of is not record or time.monotonic() - self._view_at > FRESH_SECONDS:
            pool = record.pool
            topology, sight = self._kernel.topology(pool), self._kernel.sight(pool)
            path = str(self._paths.config)
            self._view = pool_view(self.state, self._reason, path, pool, topology, sight, self._drift, self._tally)
            self._view_of, self._view_at = record, time.monotonic()
        return self._view

    async def healthy(self) -> bool:
        """Check the daemon itself: a client's call through the socket must be answered."""
        return self._endpoint is not None and await self._endpoint.answers()

    def _take_ledger(self, is_successor: bool) -> None:
        """Wait for the ledger, but not for a service that runs: in its next restart, who waits would take its place."""
        self._ledger.open(GIVE_BACK_SECONDS, in_vain=lambda: not is_successor and listens(self._paths.socket))

    def _bring_into_force(self) -> None:
        if self._phase == "stopping":  # of a pool made now, nobody would take care
            raise ReloadRefused(self._phase)
        line.end_dead_leases(self._kernel, self._ledger)
        line.bring_into_force(self._paths.config, self._kernel, self._ledger)

    def _refuse(self, error: AllocatorError) -> None:
        """Note why the pool is not what the file asks."""
        self._reason = error.what()
        log.error("%s", error, extra=REFUSED)

    def tell(self) -> None:
        """Show the state as it is now to systemd and to the watchers."""
        self._view = None
        unit.status(sentence(self.state, self._ledger.record.pool, why(self._reason, self._drift)))
        self._service.publish()

    async def change(self, work: Callable[[], T]) -> T:
        """Do blocking work in a thread, one change at a time, while the loop answers and systemd waits.

        Who is cancelled leaves when the work is done, for nothing else may be changed until then.
        """
        try:
            async with self._changing, beside(_extend_timeout()):
                job = asyncio.ensure_future(asyncio.to_thread(work))
                try:
                    return await asyncio.shield(job)
                finally:
                    while not job.done():
                        with suppress(asyncio.CancelledError):
                            await asyncio.wait([job])
                    self._view = None
        except ShortGrant:
            self._tally.short_grants += 1
            raise
        finally:
            if self._overlooked:
                asyncio.get_running_loop().call_soon(self._look_again)


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run endless work beside a block; it is gone when the block ends."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _extend_timeout() -> None:
    """Ask systemd for more time, again and again."""
    while True:
        unit.notify(f"EXTEND_TIMEOUT_USEC={EXTEND_SECONDS * 1_000_000}")
        await asyncio.sleep(EXTEND_SECONDS / 2)
