"""The lender: who may have a part of the pool, and for how long. The steps of it are in change/leases.py."""

import asyncio
import grp
import json
import logging
import os
import secrets
import select
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from typing import Any

from ali_enclaves_allocator.change.leases import lend, take_back
from ali_enclaves_allocator.change.ledger import Ledger
from ali_enclaves_allocator.kernel.doors import Kernel
from ali_enclaves_allocator.model.events import LEASE_ENDED, LEASE_GRANTED, REFUSED
from ali_enclaves_allocator.model.lease import Request, grant
from ali_enclaves_allocator.model.pool import Lease
from ali_enclaves_allocator.model.refusals import HolderGone, InvalidRequest, NoSuchLease, NotPermitted
from ali_enclaves_allocator.server.contract import Peer

log = logging.getLogger(__name__)

GROUP = "de"
"""Members may take leases without being root."""

ANNOTATION_BYTES = 1024
SO_PEERGROUPS = 59
SO_PEERPIDFD = 77
"""Socket options of Linux 4.13 and 6.5 that Python has no names for (asm-generic/socket.h)."""

Change = Callable[[Callable[[], Any]], Awaitable[Any]]


class Lender:
    """Lends parts of the pool to processes, and takes each back when its holder ends.

    `change` runs blocking work, one piece at a time; `told` is called when leases came or went.
    """

    def __init__(self, kernel: Kernel, ledger: Ledger, change: Change, told: Callable[[], None]) -> None:
        self._kernel, self._ledger, self._change, self._told = kernel, ledger, change, told
        self._pidfds: dict[str, int] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def watch(self) -> None:
        """Watch the holders of every lease, those that a predecessor granted too."""
        for lease in self._ledger.record.pool.leases:
            if lease.id not in self._pidfds:
                try:
                    self._watch(lease, os.pidfd_open(lease.holder.pid))
                except OSError:
                    self._ended(lease.id)

    async def close(self) -> None:
        """Watch no more. The leases stay."""
        for id in list(self._pidfds):
            self._forget(id)
        if self._ending:
            await asyncio.wait(self._ending)

    async def acquire(self, request: Request, peer: Peer) -> tuple[Lease, int]:
        """Lend to the process that connected. Return the lease and the fd of its memory, which is the caller's.

        Raises:
            AllocatorError: it may not, or cannot have it; nothing was lent.
        """
        _require_member(peer)
        if len(json.dumps(request.annotations)) > ANNOTATION_BYTES:
            raise InvalidRequest("annotations", f"got more than {ANNOTATION_BYTES} bytes of JSON")
        if (request.cpus is None) == (request.cpu_count is None):
            raise InvalidRequest("cpu_count", "wanted either cpu_count or cpus")
        pidfd = _pidfd_of(peer)
        try:
            holder = self._kernel.processes.holder(peer.pid, peer.uid, peer.gid)
            if holder is None or _has_ended(pidfd):
                raise HolderGone(peer.pid)
            lease, memory = await self._change(lambda: self._lend(request, holder))
        except BaseException:
            os.close(pidfd)
            raise
        self._watch(lease, pidfd)
        log.info(
            *(
                "lease %s (%s) granted to %s[%d], uid %d",
                lease.describe(),
                lease.id,
                holder.comm,
                holder.pid,
                holder.uid,
            ),
            extra=LEASE_GRANTED,
        )
        self._told()
        return lease, memory

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
        self._forget(id)
        await self._end(id, f"released by uid {peer.uid}")

    def _lend(self, request: Request, holder: Any) -> tuple[Lease, int]:
        """Choose and lend; blocking."""
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

    def _watch(self, lease: Lease, pidfd: int) -> None:
        self._pidfds[lease.id] = pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._ended, lease.id)

    def _forget(self, id: str) -> None:
        if (pidfd := self._pidfds.pop(id, None)) is not None:
            asyncio.get_running_loop().remove_reader(pidfd)
            os.close(pidfd)

    def _ended(self, id: str) -> None:
        """The holder of a lease has ended: take it back in a task of its own."""
        self._forget(id)
        task = asyncio.ensure_future(self._end(id, "its holder ended"))
        self._ending.add(task)
        task.add_done_callback(self._settled)

    def _settled(self, task: asyncio.Task[None]) -> None:
        self._ending.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("%s", error, extra=REFUSED)

    async def _end(self, id: str, why: str) -> None:
        lease = self._find(id)
        if lease is None:
            return
        await self._change(lambda: take_back(lease, self._kernel, self._ledger))
        holder = lease.holder
        log.info(
            *(
                "lease %s (%s) of %s[%d], uid %d, ended: %s",
                lease.describe(),
                id,
                holder.comm,
                holder.pid,
                holder.uid,
                why,
            ),
            extra=LEASE_ENDED,
        )
        self._told()

    def _find(self, id: str) -> Lease | None:
        return next((lease for lease in self._ledger.record.pool.leases if lease.id == id), None)


def _require_member(peer: Peer) -> None:
    """Let root and members of the group pass; supplementary groups count, as they were at connect.

    Raises:
        NotPermitted: the caller is neither.
    """
    if peer.uid == 0:
        return
    try:
        wanted = grp.getgrnam(GROUP).gr_gid
    except KeyError:
        wanted = -1
    if wanted != peer.gid and wanted not in _groups_of(peer.sock):
        raise NotPermitted(f"root or group {GROUP}", "acquire", peer.uid)


def _groups_of(sock: socket.socket) -> tuple[int, ...]:
    """Return the supplementary groups that the peer had when it connected (SO_PEERGROUPS)."""
    most = os.sysconf("SC_NGROUPS_MAX") * 4
    raw = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, most)
    return struct.unpack(f"{len(raw) // 4}I", raw)


def _pidfd_of(peer: Peer) -> int:
    """Return a pidfd of the process that connected; before Linux 6.5, of the process that has its pid now.

    Raises:
        HolderGone: there is no such process.
    """
    try:
        return peer.sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError:
        pass
    try:
        return os.pidfd_open(peer.pid)
    except OSError as error:
        raise HolderGone(peer.pid) from error


def _has_ended(pidfd: int) -> bool:
    """Tell whether the process of a pidfd has ended: it is readable then (pidfd_open(2))."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
