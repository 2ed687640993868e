"""The lender: who may have a part of the pool, and for how long. The steps of it are in change/leases.py."""

import asyncio
import logging
import os
import secrets
import time
from functools import partial
from typing import Protocol

from ali_enclaves_allocator.admission import Admission
from ali_enclaves_allocator.change.leases import end, lend, settle
from ali_enclaves_allocator.change.ledger import Ledger
from ali_enclaves_allocator.kernel import peers
from ali_enclaves_allocator.kernel.doors import Kernel
from ali_enclaves_allocator.kernel.processes import started_after
from ali_enclaves_allocator.model.errors import AllocatorError, KernelRefused
from ali_enclaves_allocator.model.events import LEASE_ENDED, LEASE_GRANTED, REFUSED
from ali_enclaves_allocator.model.lease import Request, grant
from ali_enclaves_allocator.model.pool import Holder, Lease
from ali_enclaves_allocator.model.refusals import HolderGone, NoSuchLease, NotPermitted
from ali_enclaves_allocator.server.contract import Peer
from ali_enclaves_allocator.settler import PoolOwner, Settler

log = logging.getLogger(__name__)


class Owner(PoolOwner, Protocol):
    """What the lender asks of whoever owns the pool."""

    def require_ready(self) -> None:
        """Raise PoolNotReady where nothing can be lent now; called from within a change."""

    def tell(self) -> None:
        """Tell the watchers that leases came or went."""


class Lender:
    """Lends parts of the pool to processes, and takes each back when its holder ends."""

    def __init__(self, kernel: Kernel, ledger: Ledger, owner: Owner) -> None:
        self._kernel, self._ledger, self._owner = kernel, ledger, owner
        self._admission, self._settler = Admission(), Settler(kernel, ledger, owner)
        self._pidfds: dict[str, int] = {}
        self._lending: set[asyncio.Task[tuple[Lease, int]]] = set()
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._unwatched: set[str] = set()
        """Leases of predecessors whose holders live, for all we know, and could not be watched yet."""
        self._refusals: dict[str, str] = {}
        """Why a lease could not be taken back, by its id: said once."""

    def watch(self) -> None:
        """Watch the holders of every lease that a predecessor granted. What could not be taken back is `retry`'s."""
        for lease in self._ledger.record.pool.leases:
            if lease.granted and lease.id not in self._pidfds:
                self._adopt(lease)

    def retry(self) -> None:
        """Take back what could not be taken back before, were it because the ledger could not be written.

        A lease that is being made is not watched yet, and is none of those. Pages that somebody took while they
        changed hands are asked for again.
        """
        if self._lending:
            return
        pool = self._ledger.record.pool
        for lease in pool.leases:
            if lease.id in self._unwatched:
                self._adopt(lease)
            elif not lease.granted or lease.id not in self._pidfds:
                self._end_soon(lease.id, "what was refused before is done")
        if not self._ending:
            self._settler.soon()

    async def close(self) -> None:
        """Finish what has begun and watch no more. The leases stay."""
        while under_way := [*self._lending, *self._ending.values(), *self._settler.tasks]:
            await asyncio.wait(under_way)
            await asyncio.sleep(0)
        for id in list(self._pidfds):
            self._forget(id)

    async def acquire(self, request: Request, peer: Peer) -> tuple[Lease, int]:
        """Lend to the process that connected. Return the lease and the fd of its memory, which is the caller's.

        A caller that is cancelled gets neither: the lease ends again.

        Raises:
            AllocatorError: it may not, or cannot have it; nothing was lent.
        """
        await self._admission.require(request, peer)
        task = asyncio.ensure_future(self._acquire(request, peer))
        self._lending.add(task)
        task.add_done_callback(self._lending.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(self._unanswered)
            raise

    async def release(self, id: str, peer: Peer) -> None:
        """End a lease for its holder's user or for root. Its tasks are ended too.

        Raises:
            AllocatorError: there is no such lease, it is somebody else's, or the kernel refused a step.
        """
        lease = self._find(id)
        if lease is None:
            raise NoSuchLease(id)
        if peer.uid not in (0, lease.holder.uid):
            raise NotPermitted(f"root or uid {lease.holder.uid}", f"release {lease.describe()}", peer.uid)
        await self._end(id, f"released by uid {peer.uid}")
        self._forget(id)

    async def _acquire(self, request: Request, peer: Peer) -> tuple[Lease, int]:
        """Lend and watch the holder."""
        try:
            pidfd, holder = self._identify(peer)
        except OSError as error:  # such as EMFILE: that tells nothing of the caller
            raise KernelRefused.of("watch the caller", error) from error
        try:
            await self._settler.done()
            lease, memory = await self._owner.change(partial(self._lend, request, holder))
        except BaseException:
            os.close(pidfd)
            self._settler.soon()
            raise
        self._watch(lease, pidfd)
        self._settler.soon()
        who = f"{holder.comm}[{holder.pid}], uid {holder.uid}"
        log.info("lease %s (%s) granted to %s", lease.describe(), lease.id, who, extra=LEASE_GRANTED)
        self._owner.tell()
        return lease, memory

    def _identify(self, peer: Peer) -> tuple[int, Holder]:
        """Return a pidfd of the process that connected, and who it is."""
        pidfd = peers.pidfd(peer.sock, peer.pid)
        if pidfd is None:
            raise HolderGone(peer.pid)
        try:
            holder = self._kernel.processes.holder(peer.pid, peer.uid, peer.gid)
            if holder is None or started_after(holder, peer.accepted_ns) or peers.has_ended(pidfd):
                raise HolderGone(peer.pid)  # what was read may be another's that has its pid now
        except BaseException:
            os.close(pidfd)
            raise
        return pidfd, holder

    def _lend(self, request: Request, holder: Holder) -> tuple[Lease, int]:
        """Choose and lend; blocking."""
        settle(self._ledger.record.pool, self._kernel)
        self._owner.require_ready()
        chosen = grant(request, self._ledger.record.pool)
        lease = Lease(
            id=secrets.token_hex(8),
            name=request.name,
            cores=chosen.cores,
            bank=chosen.bank.name,
            node=chosen.bank.node,
            page_kib=chosen.bank.page_kib,
            pages=chosen.pages,
            online=request.online,
            holder=holder,
            since=time.time(),
            annotations=request.annotations,
        )
        return lend(lease, self._kernel, self._ledger)

    def _unanswered(self, task: asyncio.Task[tuple[Lease, int]]) -> None:
        """End a lease that nobody was told of."""
        if not task.cancelled() and not task.exception():
            lease, memory = task.result()
            os.close(memory)
            self._forget(lease.id)
            self._end_soon(lease.id, "its caller was not answered")

    def _adopt(self, lease: Lease) -> None:
        """Watch the holder of a lease that a predecessor granted; end the lease if it has ended."""
        self._unwatched.discard(lease.id)
        try:
            self._watch(lease, os.pidfd_open(lease.holder.pid))
            if self._kernel.processes.alive(lease.holder):  # and nobody else has its pid
                return
        except ProcessLookupError:
            pass
        except OSError as error:  # such as EMFILE: that tells nothing of the holder
            log.error("lease %s: cannot watch its holder yet: %s", lease.describe(), error.strerror)
            self._forget(lease.id)
            self._unwatched.add(lease.id)
            return
        self._ended(lease.id)

    def _tell_once(self, key: str, error: AllocatorError) -> None:
        """Log why something could not be done, unless that was the last thing said of it."""
        if self._refusals.get(key) != str(error):
            log.error("%s", error, extra=REFUSED)
        self._refusals[key] = str(error)

    def _watch(self, lease: Lease, pidfd: int) -> None:
        self._pidfds[lease.id] = pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._ended, lease.id)

    def _forget(self, id: str) -> None:
        if (pidfd := self._pidfds.pop(id, None)) is not None:
            asyncio.get_running_loop().remove_reader(pidfd)
            os.close(pidfd)

    def _ended(self, id: str) -> None:
        """The holder of a lease has ended."""
        self._forget(id)
        self._end_soon(id, "its holder ended")

    def _end_soon(self, id: str, why: str) -> None:
        """Take a lease back in a task of its own."""
        if id not in self._ending:
            self._ending[id] = asyncio.ensure_future(self._end_quietly(id, why))

    async def _end_quietly(self, id: str, why: str) -> None:
        """Take a lease back; what is refused is logged once, and tried again by `retry`."""
        try:
            await self._end(id, why)
        except AllocatorError as error:
            self._tell_once(id, error)
        finally:
            del self._ending[id]

    async def _end(self, id: str, why: str) -> None:
        """Take a lease back, unless somebody else just did; raises AllocatorError."""
        try:
            lease = await self._owner.change(partial(self._end_now, id))
        finally:
            self._owner.tell()
            self._settler.soon()
        if lease:
            self._refusals.pop(id, None)
            who = f"{lease.holder.comm}[{lease.holder.pid}], uid {lease.holder.uid}"
            log.info("lease %s (%s) of %s ended: %s", lease.describe(), id, who, why, extra=LEASE_ENDED)

    def _end_now(self, id: str) -> Lease | None:
        """End a lease if it still is there; blocking."""
        lease = self._find(id)
        if lease:
            end(lease, self._kernel, self._ledger)
        return lease

    def _find(self, id: str) -> Lease | None:
        return next((lease for lease in self._ledger.record.pool.leases if lease.id == id), None)
