"""A Varlink server for asyncio; it knows nothing of what it serves.

The calls of a connection are answered in order, one at a time (https://varlink.org/Method-Call). A client harms
its own connection only: what is not a call ends that connection, because Varlink has no reply to it. Descriptors
travel as in sd-varlink: beside the reply (SCM_RIGHTS), its JSON names the index.
"""

import asyncio
import logging
import socket
import struct
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from typing import Any, cast

from pydantic import BaseModel
from pydantic_core import from_json, to_json

from ali_enclaves_allocator.server.contract import (
    SERVICE,
    Call,
    Interface,
    InternalError,
    Method,
    Nothing,
    Parameters,
    Peer,
    Reply,
    VarlinkError,
)
from ali_enclaves_allocator.server.introspection import Info, service_interface
from ali_enclaves_allocator.server.wire import Account, Limits, Wire, close_all

__all__ = ["Call", "Interface", "Limits", "Method", "Nothing", "Parameters", "Peer", "Reply", "Server", "VarlinkError"]

log = logging.getLogger(__name__)

OWN = -1
"""The account of the process that `own_pid` names; no uid is negative."""


class _Request(BaseModel, strict=True):
    """A call as its frame has it; fields it does not know are left to later versions of the protocol."""

    method: str
    parameters: dict[str, Any] | None = None
    oneway: bool = False
    more: bool = False
    upgrade: bool = False

    @classmethod
    def of(cls, frame: bytes) -> "_Request | None":
        """Read a frame; None if it is no call."""
        try:
            request = cls.model_validate(from_json(frame, allow_inf_nan=False))
        except ValueError:
            return None
        return None if request.oneway and request.more else request


def _json(message: dict[str, Any]) -> bytes:
    return to_json(message, inf_nan_mode="null") + b"\0"


class _Client:
    """One client and the task that answers it."""

    def __init__(self, server: "Server", peer: Peer, account: Account) -> None:
        self.server, self.peer = server, peer
        self.streaming = False
        self.wire = Wire(peer.sock, server.limits, account, on_end=self.reading_ended, at_once=self.at_once)
        self.task = asyncio.create_task(self.serve(), name=f"varlink client {peer.pid}")

    async def serve(self) -> None:
        """Answer call after call, until there is no other or what comes is none."""
        while (frame := await self.wire.receive()) is not None and (request := _Request.of(frame)):
            await self.answer(request)
        await self.wire.drained()

    def reading_ended(self) -> None:
        """Cancel a stream, whose client is gone; a plain call is finished all the same."""
        if self.streaming:
            self.task.cancel()

    def at_once(self, frame: bytes) -> bool:
        """Answer a call whose handler waits for nothing; tell whether that was done."""
        request = _Request.of(frame)
        if not request or not self.server.is_at_once(request):
            return False
        try:
            self.send_reply(request, self.outcome(request, self.server.find(request)))
        except Exception as error:
            self.send_error(request, error)
        return True

    async def answer(self, request: _Request) -> None:
        """Call the handler and send what it gives, or the error it raises."""
        try:
            method = self.server.find(request)
            outcome = self.outcome(request, method)
            if method.stream:
                await self.stream(request, cast(AsyncGenerator[Any, None], outcome))
            else:
                self.send_reply(request, outcome if method.at_once else await cast(Awaitable[Any], outcome))
        except (Exception, asyncio.CancelledError) as error:
            if self.task.cancelling() and not isinstance(error, VarlinkError):
                raise
            self.send_error(request, error)

    def outcome(self, request: _Request, method: Method[Any, Any]) -> Any:
        """Call the handler."""
        return method.handler(Call(self.peer, request.method, request.more), method.parse(request.parameters))

    def send_error(self, request: _Request, error: BaseException) -> None:
        """Send the error that a handler raised; what it did not mean to raise, or to put in, is for our log only."""
        if isinstance(error, VarlinkError):
            try:
                return self.send(request, {"error": error.name, "parameters": error.parameters})
            except ValueError as unprintable:
                error = unprintable
        log.error("%s failed", request.method, exc_info=error)
        interface, _, _ = request.method.rpartition(".")
        self.send(request, {"error": f"{interface}.{InternalError.__name__}", "parameters": {}})

    async def stream(self, request: _Request, replies: AsyncGenerator[Any, None]) -> None:
        """Send replies as they come, and let other clients have a turn after each."""
        if self.wire.ended:
            return
        self.streaming = True
        try:
            async with aclosing(replies):
                async for reply in replies:
                    if self.send_reply(request, reply, continues=True):
                        return
                    await asyncio.sleep(0)
        finally:
            self.streaming = False
        raise RuntimeError("the stream ended without a last reply")

    def send_reply(self, request: _Request, reply: Any, continues: bool = False) -> bool:
        """Send a model or a Reply. Returns whether it was the last of its stream."""
        if not isinstance(reply, Reply):
            reply = Reply(reply)
        more = {"continues": True} if continues and not reply.last else {}
        self.send(request, {"parameters": reply.model} | more, reply.fds)
        return bool(reply.last)

    def send(self, request: _Request, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send a message, unless its caller wants none; `fds` are closed in every case."""
        if request.oneway:
            return close_all(fds)
        try:
            frame = self.server.frame_of(message)
        except ValueError:
            close_all(fds)
            raise
        self.wire.send(frame, fds)


class Server:
    """Serves interfaces on a listening Unix socket that stays its caller's, to close or to keep for a successor.

    `vendor`, `product`, `version`, `url` and the names of the interfaces are what GetInfo tells. `own_pid` is a
    process, the server's own, that shares its uid's limits with nobody: it asks whether the server still answers.
    """

    def __init__(
        self,
        sock: socket.socket,
        interfaces: Sequence[Interface],
        *,
        vendor: str,
        product: str,
        version: str,
        url: str,
        limits: Limits | None = None,
        own_pid: int | None = None,
    ) -> None:
        self.sock, self.limits, self._own_pid = sock, limits or Limits(), own_pid
        self._interfaces = {interface.name: interface for interface in interfaces}
        info = Info(vendor=vendor, product=product, version=version, url=url, interfaces=[*self._interfaces, SERVICE])
        self._interfaces[SERVICE] = service_interface(info, self._interfaces)
        self._methods = {f"{i.name}.{m.name}": m for i in self._interfaces.values() for m in i.methods}
        self._clients: set[_Client] = set()
        self._accounts: defaultdict[int, Account] = defaultdict(Account)
        self._pause: asyncio.TimerHandle | None = None
        self._last: tuple[BaseModel | None, bytes] = (None, b"")

    async def start(self) -> None:
        """Begin to accept; makes the listening socket non-blocking."""
        self.sock.setblocking(False)
        asyncio.get_running_loop().add_reader(self.sock, self._accept)

    async def close(self, timeout: float = 5.0) -> None:
        """Accept no more, answer the calls that have arrived, end the streams, close the connections.

        What takes longer than `timeout` seconds, a handler or a client that does not read its reply, is
        cancelled. Afterwards no task, descriptor or timer of the server is left.
        """
        asyncio.get_running_loop().remove_reader(self.sock)
        if self._pause:
            self._pause.cancel()
        tasks = [client.task for client in self._clients]
        for client in self._clients:
            client.wire.finish()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout)
            for task in late:
                task.cancel()
            await asyncio.wait(tasks)

    def is_at_once(self, request: _Request) -> bool:
        """Tell whether a call is of a method that answers at once."""
        method = self._methods.get(request.method)
        return method is not None and method.at_once

    def find(self, request: _Request) -> Method[Any, Any]:
        """Return the method called. Raises VarlinkError if there is none, or it is not to be called like this."""
        method = self._methods.get(request.method)
        if not method:
            interface, _, _ = request.method.rpartition(".")
            if interface not in self._interfaces:
                raise VarlinkError(f"{SERVICE}.InterfaceNotFound", {"interface": interface})
            raise VarlinkError(f"{SERVICE}.MethodNotFound", {"method": request.method})
        if request.upgrade:
            raise VarlinkError(f"{SERVICE}.MethodNotImplemented", {"method": request.method})
        if method.stream and not request.more:
            raise VarlinkError(f"{SERVICE}.ExpectedMore")
        return method

    def frame_of(self, message: dict[str, Any]) -> bytes:
        """Write a message as JSON, NUL included, unless it is the very same frozen model as the last.

        Raises:
            ValueError: it has no form in JSON.
        """
        model = message["parameters"]
        if message.keys() != {"parameters"} or not (isinstance(model, BaseModel) and model.model_config.get("frozen")):
            return _json(message)
        if self._last[0] is not model:
            self._last = model, _json(message)
        return self._last[1]

    def _accept(self) -> None:
        """Welcome those who wait, a bounded number at a time; pause while this process has no room for them."""
        loop = asyncio.get_running_loop()
        try:
            for _ in range(64):
                self._welcome(self.sock.accept()[0])
        except (BlockingIOError, ConnectionAbortedError):
            self._pause = None
        except OSError as error:  # EMFILE, ENFILE, ENOBUFS, ENOMEM: the socket stays readable all the time
            if not self._pause:
                log.error("cannot accept connections: %s; trying again", error.strerror)
            loop.remove_reader(self.sock)
            self._pause = loop.call_later(self.limits.accept_pause, loop.add_reader, self.sock, self._accept)

    def _welcome(self, sock: socket.socket) -> None:
        """Take a connection in, or close it if its uid has too many, or all together."""
        sock.setblocking(False)
        pid, uid, gid = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        peer = Peer(pid, uid, gid, sock)
        if uid != 0 and len(self._clients) >= self.limits.all_connections:
            return sock.close()
        account = self._accounts[OWN if pid == self._own_pid else uid]
        if account.connections >= self.limits.connections:
            return sock.close()
        account.connections += 1
        client = _Client(self, peer, account)
        self._clients.add(client)
        client.task.add_done_callback(lambda _: self._farewell(client))

    def _farewell(self, client: _Client) -> None:
        """Let go of all that belonged to a client; here, because a task cancelled early has no `finally`."""
        if not client.task.cancelled() and (error := client.task.exception()):
            log.error("%s: connection lost", client.task.get_name(), exc_info=error)
        client.wire.close()
        self._clients.remove(client)
        client.wire.account.connections -= 1
        if not client.wire.account.connections:
            del self._accounts[OWN if client.peer.pid == self._own_pid else client.peer.uid]
