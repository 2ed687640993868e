"""A service of its own that shows all that the Varlink server can do, and what the tests of it speak with.

The server runs on a loop in a thread of its own, so that tests are plain blocking code.
"""

import asyncio
import json
import os
import queue
import socket
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import Future
from dataclasses import replace
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field

from ali_enclaves_allocator.server.idl import render
from ali_enclaves_allocator.server.varlink import (
    Call,
    Interface,
    Limits,
    Method,
    Nothing,
    Parameters,
    Reply,
    Server,
    VarlinkError,
)
from ali_enclaves_allocator.server.wire import Wire

PATIENCE = 30.0
"""Seconds after which a test that waits for an event gives up; no passing test waits for it."""

NAME = "org.example.Test"
T = TypeVar("T")


class Mood(StrEnum):
    """How it feels."""

    good = "good"
    bad = "bad"


class Nested(Parameters):
    """A part of the parameters."""

    number: int


class PingParameters(Parameters):
    """Everything that a parameter can be."""

    text: str
    number: int | None = None
    mood: Mood | None = None
    nested: Nested | None = None
    numbers: list[Annotated[int, Field(ge=0)]] | None = None


class PingReply(BaseModel):
    """What came back."""

    text: str


class CountParameters(Parameters):
    """How far to count."""

    to: int


class CountReply(BaseModel):
    """A number."""

    number: int


class GiveReply(BaseModel):
    """A descriptor."""

    fd: int


class PeerReply(BaseModel):
    """The caller."""

    pid: int
    uid: int
    gid: int
    more: bool


class TooLate(BaseModel):
    """An error with a field."""

    by: int


class Example:
    """The interface that the tests call; `events` tells them what the handlers do.

    Those that wait for nothing answer at once, or by a task like the others.
    """

    def __init__(self, at_once: bool) -> None:
        self.at_once = at_once
        self.events: queue.Queue[str] = queue.Queue()
        self.go = asyncio.Event()
        self.at_work = 0
        self.most_at_work = 0
        self.flooded = 0

    def methods(self) -> list[Method[Any, Any]]:
        methods: list[Method[Any, Any]] = [
            Method("Ping", self.ping, PingParameters, PingReply),
            Method("Fail", self.fail, Nothing, Nothing),
            Method("Crash", self.crash, Nothing, Nothing),
            Method("Lose", self.lose, Nothing, Nothing),
            Method("Blunder", self.blunder, Nothing, Nothing),
            Method("Mangle", self.mangle, Nothing, GiveReply),
            Method("Wait", self.wait, Nothing, PingReply),
            Method("Count", self.count, CountParameters, CountReply),
            Method("Stop", self.stop, Nothing, CountReply),
            Method("Watch", self.watch, Nothing, CountReply),
            Method("Flood", self.flood, Nothing, PingReply),
            Method("Give", self.give, Nothing, GiveReply),
            Method("Deal", self.deal, Nothing, GiveReply),
            Method("WhoAmI", self.who_am_i, Nothing, PeerReply),
        ]
        return methods if self.at_once else [replace(method, handler=by_a_task(method)) for method in methods]

    def ping(self, _: Call, parameters: PingParameters) -> PingReply:
        """Send the text back."""
        self.events.put(f"ping {parameters.text[:20]}")
        return PingReply(text=parameters.text)

    def fail(self, _: Call, __: Nothing) -> Nothing:
        """Raise an error of the interface."""
        raise VarlinkError(f"{NAME}.TooLate", {"by": 3})

    def crash(self, _: Call, __: Nothing) -> Nothing:
        """Raise what it should not."""
        raise ZeroDivisionError("a secret of ours")

    async def lose(self, _: Call, __: Nothing) -> Nothing:
        """Wait for what somebody else has cancelled."""
        other = asyncio.get_running_loop().create_future()
        other.cancel()
        await other
        return Nothing()

    def blunder(self, _: Call, __: Nothing) -> Nothing:
        """Raise an error whose field is not JSON."""
        raise VarlinkError(f"{NAME}.TooLate", {"by": object()})

    def mangle(self, _: Call, __: Nothing) -> Reply[GiveReply]:
        """Give a descriptor beside a reply that is not JSON."""
        unprintable: Any = "\ud800"
        return Reply(GiveReply.model_construct(fd=unprintable), fds=[os.open("/dev/null", os.O_RDONLY)])

    async def wait(self, _: Call, __: Nothing) -> PingReply:
        """Take until the test says go."""
        self.at_work += 1
        self.most_at_work = max(self.at_work, self.most_at_work)
        self.events.put("waiting")
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.events.put("cancelled")
            raise
        finally:
            self.at_work -= 1
        self.events.put("went")
        return PingReply(text="went")

    async def count(self, _: Call, parameters: CountParameters) -> AsyncGenerator[CountReply | Reply[CountReply], None]:
        """Count, and say which is the last."""
        for number in range(parameters.to):
            yield Reply(CountReply(number=number), last=number == parameters.to - 1)

    async def stop(self, _: Call, __: Nothing) -> AsyncGenerator[CountReply, None]:
        """Forget to say which is the last."""
        yield CountReply(number=0)

    async def watch(self, _: Call, __: Nothing) -> AsyncGenerator[CountReply, None]:
        """Tell one number, then wait."""
        try:
            yield CountReply(number=0)
            self.events.put("watching")
            await self.go.wait()
            yield CountReply(number=1)
            await asyncio.Event().wait()
        finally:
            self.events.put("unwatched")

    async def flood(self, _: Call, __: Nothing) -> AsyncGenerator[PingReply, None]:
        """Never stop to talk."""
        try:
            while True:
                yield PingReply(text="x" * 10_000)
                self.flooded += 10_000
        finally:
            self.events.put("unwatched")

    async def give(self, _: Call, __: Nothing) -> Reply[GiveReply]:
        """Give the reading end of a pipe that says hello, once the test says go."""
        read, write = os.pipe2(os.O_CLOEXEC)
        os.write(write, b"hello")
        os.close(write)
        self.events.put("giving")
        await self.go.wait()
        return Reply(GiveReply(fd=0), fds=[read])

    async def deal(self, _: Call, __: Nothing) -> AsyncGenerator[Reply[GiveReply], None]:
        """Give three descriptors, one after another."""
        for number in range(3):
            yield Reply(GiveReply(fd=0), fds=[os.open("/dev/null", os.O_RDONLY)], last=number == 2)

    def who_am_i(self, call: Call, _: Nothing) -> PeerReply:
        """Name the caller."""
        return PeerReply(pid=call.peer.pid, uid=call.peer.uid, gid=call.peer.gid, more=call.more)


def by_a_task(method: Method[Any, Any]) -> Callable[[Call, Any], Any]:
    """Return the handler of a method as a coroutine function, if it is a plain one."""
    if not method.at_once:
        return method.handler

    @wraps(method.handler)
    async def handler(call: Call, parameters: Any) -> Any:
        return method.handler(call, parameters)

    return handler


class Running:
    """A server on a loop in a thread of its own."""

    def __init__(
        self,
        path: Path,
        limits: Limits | None = None,
        listener: socket.socket | None = None,
        at_once: bool = True,
    ) -> None:
        self.path, self.at_once = str(path), at_once
        self.listener = listener or listen(self.path)
        self.loop = asyncio.new_event_loop()
        self.failures: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.failures.append(context))
        self.thread = threading.Thread(target=self.loop.run_forever, name="varlink server")
        self.thread.start()
        self.example = self.run(self._make())
        self.server = self.run(self._start(limits))
        self.clients: list[socket.socket] = []

    def run(self, work: Awaitable[T]) -> T:
        """Run on the loop and wait for the outcome."""
        return self.begin(work).result(PATIENCE)

    def begin(self, work: Awaitable[T]) -> "Future[T]":
        """Start on the loop."""

        async def task() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(task(), self.loop)

    def go(self) -> None:
        """Let the handlers that wait go on."""
        self.loop.call_soon_threadsafe(self.example.go.set)

    def event(self) -> str:
        """Wait for what a handler does next."""
        return self.example.events.get(timeout=PATIENCE)

    def connect(self) -> socket.socket:
        """Open a connection; it is closed with the test."""
        client = socket.socket(socket.AF_UNIX)
        self.clients.append(client)
        client.settimeout(PATIENCE)
        client.connect(self.path)
        return client

    async def _make(self) -> Example:
        return Example(self.at_once)

    async def _start(self, limits: Limits | None) -> Server:
        methods = self.example.methods()
        interface = Interface(NAME, methods, lambda: render(NAME, methods, [TooLate], "An interface for tests."))
        info = {"vendor": "Example", "product": "Test", "version": "1", "url": "http://example.org"}
        server = Server(self.listener, [interface], **info, limits=limits)
        await server.start()
        return server

    def stop(self) -> None:
        """Close everything; nothing may be left on the loop."""
        self.run(self.server.close(timeout=0.01))
        left = self.run(self._left())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(PATIENCE)
        self.loop.close()
        self.listener.close()
        for client in self.clients:
            client.close()
        assert left == []
        assert not self.server._clients and not self.server._accounts
        assert self.failures == []

    async def _left(self) -> list[Any]:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        timers = [timer for timer in self.loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
        return [*tasks, *timers]


def listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(4096)
    return listener


def open_fds() -> dict[str, str]:
    """Return the open descriptors and what they are, without the one that lists them."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue
    return found


def frame(method: str, parameters: Any = None, **more: Any) -> bytes:
    """Encode a call."""
    return json.dumps({"method": f"{NAME}.{method}", "parameters": parameters or {}, **more}).encode() + b"\0"


def ping(text: str) -> bytes:
    return frame("Ping", {"text": text})


def replies(client: socket.socket, count: int) -> list[dict[str, Any]]:
    """Read that many replies."""
    data = b""
    while data.count(b"\0") < count:
        chunk = client.recv(65536)
        assert chunk, f"closed after {data!r}"
        data += chunk
    *frames, rest = data.split(b"\0")
    assert rest == b"" and len(frames) == count
    return [json.loads(text) for text in frames]


def reply(client: socket.socket) -> dict[str, Any]:
    return replies(client, 1)[0]


def ending(client: socket.socket) -> bytes:
    """Read until the server closes, gently or not."""
    data = b""
    try:
        while chunk := client.recv(65536):
            data += chunk
    except ConnectionResetError:
        pass
    return data


def assert_serves(service: Running) -> None:
    """Check that another client is answered."""
    client = service.connect()
    client.sendall(ping("still here"))
    assert reply(client) == {"parameters": {"text": "still here"}}


Wires = Callable[..., tuple[Wire, socket.socket]]
