"""The Varlink server and the blocking client, against each other, two foreign clients and hostile bytes.

The server runs on a loop in a thread of its own, so that tests are plain blocking code; after every test nothing of
it may be left: no task, descriptor or thread.
"""

import asyncio
import contextlib
import errno
import gc
import itertools
import json
import os
import queue
import resource
import select
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import asyncvarlink
import asyncvarlink.serviceinterface
import pytest
import varlink  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from ali_enclaves_allocator.server.idl import render
from ali_enclaves_allocator.server.varlink import (
    Call,
    Limits,
    Method,
    Nothing,
    Parameters,
    Reply,
    Server,
    VarlinkError,
)
from ali_enclaves_allocator.server.wire import RECEIVE_BYTES, Account, Frames, FrameTooLong, Wire
from enclave_cli.client import CallError, Client, Unavailable

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
    """The interface that the tests call; `events` tells them what the handlers do."""

    def __init__(self) -> None:
        self.events: queue.Queue[str] = queue.Queue()
        self.go = asyncio.Event()
        self.at_work = 0
        self.most_at_work = 0
        self.flooded = 0

    def methods(self) -> list[Method[Any, Any]]:
        return [
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

    async def ping(self, _: Call, parameters: PingParameters) -> PingReply:
        """Send the text back."""
        self.events.put(f"ping {parameters.text[:20]}")
        return PingReply(text=parameters.text)

    async def fail(self, _: Call, __: Nothing) -> Nothing:
        """Raise an error of the interface."""
        raise VarlinkError(f"{NAME}.TooLate", {"by": 3})

    async def crash(self, _: Call, __: Nothing) -> Nothing:
        """Raise what it should not."""
        raise ZeroDivisionError("a secret of ours")

    async def lose(self, _: Call, __: Nothing) -> Nothing:
        """Wait for what somebody else has cancelled."""
        other = asyncio.get_running_loop().create_future()
        other.cancel()
        await other
        return Nothing()

    async def blunder(self, _: Call, __: Nothing) -> Nothing:
        """Raise an error whose field is not JSON."""
        raise VarlinkError(f"{NAME}.TooLate", {"by": object()})

    async def mangle(self, _: Call, __: Nothing) -> Reply[GiveReply]:
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

    async def who_am_i(self, call: Call, _: Nothing) -> PeerReply:
        """Name the caller."""
        return PeerReply(pid=call.peer.pid, uid=call.peer.uid, gid=call.peer.gid, more=call.more)


class Running:
    """A server on a loop in a thread of its own."""

    def __init__(self, path: Path, limits: Limits | None = None, listener: socket.socket | None = None) -> None:
        self.path = str(path)
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
        return Example()

    async def _start(self, limits: Limits | None) -> Server:
        interface = render(NAME, self.example.methods(), [TooLate], "An interface for tests.")
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


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Fail if a test leaves a descriptor or a thread behind."""
    fds, threads = open_fds(), set(threading.enumerate())
    yield
    if open_fds() != fds:
        gc.collect()  # the foreign clients leave it to their objects' end
    assert open_fds() == fds
    assert set(threading.enumerate()) == threads


@pytest.fixture
def start(tmp_path: Path, nothing_left: None) -> Iterator[Callable[..., Running]]:
    """Start servers; they are stopped after the test, before what they left behind is looked for."""
    running: list[Running] = []

    def begin(**limits: Any) -> Running:
        running.append(Running(tmp_path / f"socket{len(running)}", Limits(**limits)))
        return running[-1]

    yield begin
    for server in running:
        server.stop()


Wires = Callable[..., tuple[Wire, socket.socket]]


@pytest.fixture
def wires(nothing_left: None) -> Iterator[Wires]:
    """Make wires on the running loop, and the sockets at their other ends; all are closed after the test."""
    sockets: list[socket.socket] = []

    def make(
        limits: Limits | None = None, account: Account | None = None, on_end: Callable[[], None] = lambda: None
    ) -> tuple[Wire, socket.socket]:
        ours, theirs = socket.socketpair()
        sockets.extend((ours, theirs))
        for end in (ours, theirs):
            end.setblocking(False)
        return Wire(ours, limits or Limits(), account or Account(), on_end), theirs

    yield make
    for end in sockets:
        end.close()


@pytest.fixture
def service(start: Callable[..., Running]) -> Running:
    """A server with the usual limits."""
    return start()


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


# Calls


def test_a_call_is_answered(service: Running) -> None:
    client = service.connect()
    client.sendall(frame("Ping", {"text": "é \0 \U0001f600", "mood": "bad", "nested": {"number": 1}, "numbers": [0]}))
    assert reply(client) == {"parameters": {"text": "é \0 \U0001f600"}}


def test_parameters_may_be_absent_or_null(service: Running) -> None:
    client = service.connect()
    client.sendall(b'{"method":"org.example.Test.Fail"}\0{"method":"org.example.Test.Fail","parameters":null}\0')
    assert [r["error"] for r in replies(client, 2)] == [f"{NAME}.TooLate"] * 2


def test_pipelined_calls_are_answered_in_order_and_one_at_a_time(service: Running) -> None:
    client = service.connect()
    client.sendall(ping("first") + frame("Wait") + frame("Wait") + ping("last"))
    assert reply(client)["parameters"] == {"text": "first"}  # not held back by the call that takes long
    assert [service.event(), service.event()] == ["ping first", "waiting"]
    assert service.example.most_at_work == 1
    service.go()
    assert [r["parameters"]["text"] for r in replies(client, 3)] == ["went", "went", "last"]
    assert service.example.most_at_work == 1


def test_a_call_that_takes_long_holds_up_nobody_else(service: Running) -> None:
    service.connect().sendall(frame("Wait"))
    assert service.event() == "waiting"
    assert_serves(service)


def test_ten_thousand_pipelined_calls_come_back_in_order(service: Running) -> None:
    client = service.connect()
    calls = b"".join(ping(str(number)) for number in range(10_000))
    sender = threading.Thread(target=client.sendall, args=[calls])
    sender.start()
    answers = replies(client, 10_000)
    sender.join(PATIENCE)
    assert [int(answer["parameters"]["text"]) for answer in answers] == list(range(10_000))


def test_two_hundred_clients_at_once_are_all_answered(service: Running) -> None:
    clients = [service.connect() for _ in range(200)]
    for number, client in enumerate(clients):
        client.sendall(ping(str(number)))
    assert [reply(client)["parameters"]["text"] for client in clients] == [str(number) for number in range(200)]


def test_oneway_calls_are_run_and_never_answered(service: Running) -> None:
    service.go()
    client = service.connect()
    for method in ("Fail", "Crash", "Give", "Watch", "Missing"):
        client.sendall(frame(method, oneway=True))
    client.sendall(frame("Ping", {"text": "quiet"}, oneway=True) + ping("loud"))
    assert reply(client) == {"parameters": {"text": "loud"}}
    assert [service.event() for _ in range(3)] == ["giving", "ping quiet", "ping loud"]


def test_the_caller_is_known_by_its_process(service: Running) -> None:
    program = (
        "import os, sys; from enclave_cli.client import Client\n"
        f"print(os.getpid(), Client(sys.argv[1]).call('{NAME}.WhoAmI'))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program, service.path], capture_output=True, text=True, check=True, timeout=PATIENCE
    ).stdout
    pid, _, answer = printed.strip().partition(" ")
    assert answer == str({"pid": int(pid), "uid": os.getuid(), "gid": os.getgid(), "more": False})


def test_more_reaches_the_handler_and_one_reply_is_enough(service: Running) -> None:
    client = service.connect()
    client.sendall(frame("WhoAmI", more=True))
    answer = reply(client)
    assert answer["parameters"]["more"] is True
    assert "continues" not in answer


# Errors


@pytest.mark.parametrize(
    ("call", "error", "parameters"),
    [
        (frame("Fail"), f"{NAME}.TooLate", {"by": 3}),
        (frame("Missing"), "org.varlink.service.MethodNotFound", {"method": f"{NAME}.Missing"}),
        (
            b'{"method":"org.example.Other.X"}\0',
            "org.varlink.service.InterfaceNotFound",
            {"interface": "org.example.Other"},
        ),
        (b'{"method":"X"}\0', "org.varlink.service.InterfaceNotFound", {"interface": ""}),
        (frame("Watch"), "org.varlink.service.ExpectedMore", {}),
        (
            frame("Ping", {"text": "x"}, upgrade=True),
            "org.varlink.service.MethodNotImplemented",
            {"method": f"{NAME}.Ping"},
        ),
        (
            b'{"method":"org.varlink.service.GetInterfaceDescription","parameters":{"interface":"a.b"}}\0',
            "org.varlink.service.InterfaceNotFound",
            {"interface": "a.b"},
        ),
        (frame("Crash"), f"{NAME}.InternalError", {}),
        (frame("Lose"), f"{NAME}.InternalError", {}),
        (frame("Mangle"), f"{NAME}.InternalError", {}),
    ],
)
def test_errors_are_answered_and_the_connection_goes_on(
    service: Running, call: bytes, error: str, parameters: dict[str, Any]
) -> None:
    client = service.connect()
    client.sendall(call)
    assert reply(client) == {"error": error, "parameters": parameters}
    client.sendall(ping("after"))
    assert reply(client) == {"parameters": {"text": "after"}}


@pytest.mark.parametrize(
    ("parameters", "bad"),
    [
        ({}, "text"),
        ({"text": 1}, "text"),
        ({"text": None}, "text"),
        ({"text": "x", "number": "1"}, "number"),
        ({"text": "x", "number": True}, "number"),
        ({"text": "x", "number": 1.5}, "number"),
        ({"text": "x", "mood": "ugly"}, "mood"),
        ({"text": "x", "nested": {"number": 1, "more": 1}}, "nested"),
        ({"text": "x", "numbers": [1, -1]}, "numbers"),
        ({"text": "x", "txet": "x"}, "txet"),
    ],
)
def test_a_bad_parameter_is_named(service: Running, parameters: dict[str, Any], bad: str) -> None:
    client = service.connect()
    client.sendall(frame("Ping", parameters))
    assert reply(client) == {"error": "org.varlink.service.InvalidParameter", "parameters": {"parameter": bad}}


def test_a_failure_of_ours_is_logged_and_not_told(service: Running, caplog: pytest.LogCaptureFixture) -> None:
    client = service.connect()
    client.sendall(frame("Crash"))
    assert "secret" not in json.dumps(reply(client))
    assert "a secret of ours" in caplog.text and "Traceback" in caplog.text
    assert caplog.messages == [f"{NAME}.Crash failed"]


def test_an_error_that_cannot_be_encoded_ends_its_connection_only(
    service: Running, caplog: pytest.LogCaptureFixture
) -> None:
    client = service.connect()
    client.sendall(frame("Blunder"))
    assert ending(client) == b""
    assert_serves(service)
    assert caplog.messages == [f"varlink client {os.getpid()}: connection lost"]


# Hostile bytes

HOSTILE = {
    "empty": b"\0",
    "garbage": b"GET / HTTP/1.1\r\n\r\n\0",
    "half": b'{"method":\0',
    "array": b"[1]\0",
    "number": b"1\0",
    "null": b"null\0",
    "two objects": b"{}{}\0",
    "no method": b'{"parameters":{}}\0',
    "method type": b'{"method":1}\0',
    "parameters type": b'{"method":"a.b","parameters":[]}\0',
    "oneway type": b'{"method":"a.b","oneway":"yes"}\0',
    "more type": b'{"method":"a.b","more":1}\0',
    "oneway and more": frame("Watch", more=True, oneway=True),
    "invalid UTF-8": b'{"method":"\xff\xfe"}\0',
    "lone surrogate": b'{"method":"\\ud800"}\0',
    "NaN": b'{"method":"a.b","parameters":{"a":NaN}}\0',
    "long number": b'{"method":"a.b","parameters":{"a":' + b"1" * 60_000 + b"}}\0",
    "deep arrays": b"[" * 30_000 + b"]" * 30_000 + b"\0",
    "deep objects": b'{"method":"a.b","parameters":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001 + b"\0",
    "too long": ping("x" * 65_536),
    "too long, no end": b"x" * 65_537,
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_no_call_ends_its_own_connection_only(
    start: Callable[..., Running], data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    service = start(frame_seconds=3600)
    other = service.connect()
    client = service.connect()
    client.sendall(ping("before") + data)
    assert ending(client) == b'{"parameters":{"text":"before"}}\0'
    other.sendall(ping("after"))
    assert reply(other) == {"parameters": {"text": "after"}}
    assert caplog.messages == []


def test_all_replies_before_it_arrive(start: Callable[..., Running]) -> None:
    """Also those that the socket cannot take at once."""
    service = start(sent=1)
    client = service.connect()
    client.sendall(ping("x" * 60_000) + b"garbage\0")
    assert ending(client).count(b"\0") == 1


def test_a_frame_may_be_as_long_as_the_limit(service: Running) -> None:
    client = service.connect()
    call = ping("x" * (65_537 - len(ping(""))))
    assert len(call) == 65_537
    client.sendall(call)
    assert len(reply(client)["parameters"]["text"]) == 65_537 - len(ping(""))


def test_fields_of_later_versions_are_ignored(service: Running) -> None:
    client = service.connect()
    client.sendall(frame("Ping", {"text": "x"}, trace={"id": 1}))
    assert reply(client) == {"parameters": {"text": "x"}}


def test_no_bytes_break_the_server(service: Running, caplog: pytest.LogCaptureFixture) -> None:
    pieces = st.one_of(st.binary(), st.sampled_from([*HOSTILE.values(), ping("x"), frame("Fail")]))

    @settings(max_examples=200)
    @given(st.lists(pieces, max_size=5))
    def talk(sent: list[bytes]) -> None:
        with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.settimeout(PATIENCE)
            client.connect(service.path)
            for data in sent:
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            for answer in ending(client).split(b"\0")[:-1]:
                assert json.loads(answer).keys() <= {"parameters", "error"}

    talk()
    assert_serves(service)
    assert caplog.messages == []


@given(st.lists(st.binary(max_size=5).map(lambda data: data.replace(b"\0", b"")), max_size=10), st.data())
def test_frames_do_not_depend_on_how_the_bytes_were_chunked(sent: list[bytes], data: st.DataObject) -> None:
    """Nor does the frame that is too long, which ends them."""
    limit = 3
    stream = b"\0".join([*sent, b""]) + data.draw(st.binary(max_size=5).map(lambda rest: rest.replace(b"\0", b"")))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    chunks = [stream[start:end] for start, end in itertools.pairwise([0, *cuts, len(stream)])]
    frames, got, too_long = Frames(limit), list[bytes](), False
    try:
        for chunk in chunks:
            got.extend(frames.feed(chunk))
    except FrameTooLong:
        too_long = True
    whole = stream.split(b"\0")
    good = list(itertools.takewhile(lambda piece: len(piece) <= limit, whole))
    assert got == (good if too_long else whole[:-1])
    assert too_long == (len(good) < len(whole))
    assert too_long or frames.partial == whole[-1]


# Clients that are slow, or take too much


def test_an_unfinished_call_has_a_deadline(start: Callable[..., Running]) -> None:
    service = start(frame_seconds=0.05)
    client = service.connect()
    client.sendall(ping("whole") + b'{"method"')
    assert ending(client) == b'{"parameters":{"text":"whole"}}\0'
    assert_serves(service)


def test_a_trickle_of_bytes_does_not_put_the_deadline_off(start: Callable[..., Running]) -> None:
    service = start(frame_seconds=0.2)
    client = service.connect()
    sent = 0
    with contextlib.suppress(BrokenPipeError):
        while not select.select([client], [], [], 0.01)[0]:
            sent += client.send(b"x")
    assert ending(client) == b""
    assert 0 < sent < Limits().frame


def test_a_client_has_a_deadline_only_within_a_frame(wires: Wires) -> None:
    async def talk() -> None:
        late = asyncio.Event()
        idle, client = wires(Limits(frame_seconds=0.02))
        client.send(b"on")
        for _ in range(5):
            await asyncio.sleep(0)
        client.send(b"e\0")
        assert await idle.receive() == b"one"
        _later, other = wires(Limits(frame_seconds=0.02), on_end=late.set)
        other.send(b"on")
        await late.wait()  # so the time of the first one has passed as well
        assert not idle.ended

    asyncio.run(talk())


def test_a_client_that_waits_for_us_is_not_late(start: Callable[..., Running]) -> None:
    service = start(frame_seconds=0.01)
    client, late = service.connect(), service.connect()
    client.sendall(frame("Wait") + ping("next") + ping("x" * 2 * RECEIVE_BYTES))  # read only in part
    assert service.event() == "waiting"
    late.sendall(b"{")
    assert ending(late) == b""  # more than the deadline has passed
    service.go()
    assert [len(r["parameters"]["text"]) for r in replies(client, 3)] == [4, 4, 2 * RECEIVE_BYTES]


def test_a_watcher_that_does_not_read_is_dropped(start: Callable[..., Running]) -> None:
    service = start(queue=100_000)
    client = service.connect()
    client.sendall(frame("Flood", more=True))
    assert service.event() == "unwatched"
    assert 100_000 < service.example.flooded < 400_000
    assert 0 < len(ending(client)) < 400_000
    assert_serves(service)


def test_the_watchers_of_a_uid_share_a_budget(start: Callable[..., Running]) -> None:
    """Those who let nothing wait are not dropped for the others."""
    service = start(queue=10_000_000, held=100_000)
    watchers = [service.connect() for _ in range(3)]
    for client in watchers:
        client.sendall(frame("Flood", more=True))
    assert [service.event() for _ in watchers] == ["unwatched"] * 3
    assert 100_000 < service.example.flooded < 700_000
    assert_serves(service)


def test_a_caller_that_reads_is_not_dropped_for_its_siblings(wires: Wires) -> None:
    async def talk() -> None:
        others = Limits().held + 1
        wire, theirs = wires(account=(account := Account(held=others)))
        wire.send(b"one\0")
        await wire.drained()
        wire.send(b"two\0", [os.open("/dev/null", os.O_RDONLY)])
        assert not wire.ended
        wire.send(b"three\0", [os.open("/dev/null", os.O_RDONLY)])  # while something waits
        assert wire.ended and account.held == others
        assert theirs.recv(100) == b"one\0"

    asyncio.run(talk())


def test_long_calls_of_a_uid_share_a_budget(start: Callable[..., Running]) -> None:
    """The one that asks for too much is dropped, and no other."""
    service = start(held=100_000, frame_seconds=3600)
    clients = [service.connect() for _ in range(3)]
    for client in clients:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            client.sendall(b"x" * 45_000)
    (ended,), _, _ = select.select(clients, [], [], PATIENCE)
    assert ending(ended) == b""
    clients.remove(ended)
    assert_serves(service)
    assert select.select(clients, [], [], 0) == ([], [], [])


def test_short_calls_are_taken_whatever_the_budget(wires: Wires) -> None:
    async def talk() -> None:
        wire, theirs = wires(account=Account(held=Limits().held + 1))
        theirs.send(b"short\0")
        assert await wire.receive() == b"short"
        theirs.send(b"x" * (RECEIVE_BYTES + 1))
        assert await wire.receive() is None

    asyncio.run(talk())


def test_nothing_is_read_after_the_end(wires: Wires) -> None:
    async def talk() -> None:
        wire, theirs = wires()
        theirs.send(b"one\0two\0")
        wire.finish()
        assert [await wire.receive(), await wire.receive()] == [b"one", b"two"]
        theirs.send(b"three\0")
        for _ in range(5):
            await asyncio.sleep(0)
        assert await wire.receive() is None

    asyncio.run(talk())


def test_the_account_of_a_uid_is_settled(service: Running) -> None:
    client, unfinished = service.connect(), service.connect()
    unfinished.sendall(b"x" * 10_000)
    client.sendall(b"".join(ping("x" * 1000) for _ in range(100)) + frame("Fail"))
    assert "error" in replies(client, 101)[-1]

    async def settled(held: int) -> None:
        while service.server._accounts[os.getuid()].held != held:
            await asyncio.sleep(0)

    service.run(settled(10_000))
    unfinished.close()
    service.run(settled(0))


def test_the_calls_of_a_dropped_client_are_dropped(wires: Wires) -> None:
    async def talk() -> None:
        wire, theirs = wires()
        theirs.send(b"one\0two\0")
        assert await wire.receive() == b"one"
        for _ in range(2):
            wire.send(b"x" * 1_000_000)
        assert await wire.receive() is None
        wire.send(b"late\0")
        await wire.drained()
        assert b"late" not in theirs.recv(2_000_000)

    asyncio.run(talk())


def test_a_socket_that_took_all_is_no_longer_watched(wires: Wires) -> None:
    async def talk() -> None:
        wire, theirs = wires()
        wire.send(b"x" * 1_000_000)
        read = 0
        while read < 1_000_000:
            read += len(await asyncio.get_running_loop().sock_recv(theirs, 65536))
        await wire.drained()
        assert not asyncio.get_running_loop().remove_writer(wire.sock)

    asyncio.run(talk())


def test_a_caller_that_does_not_read_is_not_served_on(wires: Wires) -> None:
    async def talk() -> None:
        loop = asyncio.get_running_loop()
        wire, theirs = wires()
        await loop.sock_sendall(theirs, b"one\0two\0")
        assert await wire.receive() == b"one"
        wire.send(b"x" * 1_000_000)
        waiting = asyncio.create_task(wire.receive())
        read = len(await loop.sock_recv(theirs, 1000))
        assert not waiting.done()
        while read < 1_000_000:
            read += len(await loop.sock_recv(theirs, 65536))
        assert await waiting == b"two"

    asyncio.run(talk())


def test_a_client_cannot_be_far_ahead(wires: Wires) -> None:
    """What it sends while nobody takes its calls waits in the kernel, where it is its own."""

    async def talk() -> None:
        _wire, theirs = wires()
        sent = turns = 0
        while turns < 10:
            try:
                sent += theirs.send(b"x\0" * 1000)
                turns = 0
            except BlockingIOError:
                await asyncio.sleep(0)
                turns += 1
            assert sent < 5_000_000

    asyncio.run(talk())


def test_what_was_sent_before_the_close_arrives(wires: Wires) -> None:
    async def talk() -> None:
        failures: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        wire, theirs = wires()
        wire.send(b"bye\0")
        wire.close()
        assert theirs.recv(100) == b"bye\0"
        await asyncio.sleep(0)  # a turn that writes, had the close not done it
        assert failures == []

    asyncio.run(talk())


def test_a_uid_has_a_limited_number_of_connections(start: Callable[..., Running]) -> None:
    service = start(connections=2)
    first, second = service.connect(), service.connect()
    for client in (first, second):
        client.sendall(ping("in"))
        assert reply(client) == {"parameters": {"text": "in"}}
    assert ending(service.connect()) == b""
    first.sendall(frame("Watch", more=True))
    assert [service.event() for _ in range(3)] == ["ping in", "ping in", "watching"]
    first.close()
    assert service.event() == "unwatched"
    assert_serves(service)


class Starving(socket.socket):
    """A listening socket that counts how often it is asked, and tells when that was often enough."""

    asked = enough = 0

    def __init__(self, family: int) -> None:
        super().__init__(family)
        self.asked_enough = threading.Event()

    def tell_after(self, times: int) -> None:
        self.asked_enough.clear()
        self.enough = self.asked + times

    def accept(self) -> tuple[socket.socket, Any]:
        self.asked += 1
        if self.asked == self.enough:
            self.asked_enough.set()
        return super().accept()


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Leave this process no descriptor to open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_descriptors_the_server_waits_and_says_so_once(
    tmp_path: Path, nothing_left: None, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Starving(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    listener.listen()
    service = Running(tmp_path / "socket", Limits(accept_pause=0.01), listener)
    try:
        inside = service.connect()
        inside.sendall(ping("before"))
        assert reply(inside) == {"parameters": {"text": "before"}}
        for outages in (1, 2):
            outside = socket.socket(socket.AF_UNIX)
            service.clients.append(outside)
            listener.tell_after(5)
            with no_descriptors():
                outside.connect(service.path)
                assert listener.asked_enough.wait(PATIENCE)
                inside.sendall(ping("meanwhile"))
                assert reply(inside) == {"parameters": {"text": "meanwhile"}}
            outside.sendall(ping("at last"))
            assert reply(outside) == {"parameters": {"text": "at last"}}
            assert caplog.messages == ["cannot accept connections: Too many open files; trying again"] * outages
    finally:
        service.stop()


def test_without_descriptors_the_loop_does_not_spin(tmp_path: Path, nothing_left: None) -> None:
    listener = Starving(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    listener.listen()
    service = Running(tmp_path / "socket", Limits(accept_pause=3600), listener)
    try:
        inside, outside = service.connect(), socket.socket(socket.AF_UNIX)
        service.clients.append(outside)
        inside.sendall(ping("before"))
        assert reply(inside) == {"parameters": {"text": "before"}}
        listener.tell_after(1)
        with no_descriptors():
            outside.connect(service.path)
            assert listener.asked_enough.wait(PATIENCE)
            for _ in range(100):  # each of them is a turn of the loop at least
                inside.sendall(ping("meanwhile"))
                assert reply(inside) == {"parameters": {"text": "meanwhile"}}
            assert listener.asked == listener.enough
    finally:
        service.stop()


# Descriptors


@pytest.mark.parametrize("count", [1, 10, 253])
def test_descriptors_nobody_asked_for_are_dropped(service: Running, count: int) -> None:
    client = service.connect()
    client.sendall(ping("before"))
    reply(client)
    read, write = os.pipe()
    before = open_fds()
    call = ping("with descriptors")
    for part in (call[:10], call[10:]):
        socket.send_fds(client, [part], [write] * count)
    assert reply(client) == {"parameters": {"text": "with descriptors"}}
    assert open_fds() == before
    os.close(write)
    assert os.read(read, 1) == b""  # nobody holds the other end
    os.close(read)


def test_a_descriptor_comes_with_its_reply(service: Running) -> None:
    service.go()
    with Client(service.path) as client:
        other = service.connect()
        for ready in (client.sock, other):
            ready.sendall(ping("before"))
            reply(ready)
        before = open_fds()
        answer, fds = client.call_for_fds(f"{NAME}.Give")
        assert answer == {"fd": 0} and len(fds) == 1
        assert os.read(fds[0], 10) == b"hello"
        assert not os.get_inheritable(fds[0])
        os.close(fds[0])
        assert client.call(f"{NAME}.Give") == {"fd": 0}  # and closes what nobody asked for
        other.sendall(ping("after"))
        reply(other)  # so the server has closed its own by now
        assert open_fds() == before


def test_descriptors_come_with_the_first_byte_of_their_own_frame(service: Running) -> None:
    """Whatever was pipelined around it; each recvmsg here stops where the kernel ended a message."""
    client = service.connect()
    client.sendall(ping("one") + frame("Give") + ping("two") + frame("Give"))
    assert reply(client)["parameters"] == {"text": "one"}
    service.go()
    got: list[tuple[bytes, int]] = []
    while sum(data.count(b"\0") for data, _ in got) < 3:
        data, fds, _, _ = socket.recv_fds(client, 65536, 253)
        for fd in fds:
            os.close(fd)
        got.append((data, len(fds)))
    assert got[0] == (b'{"parameters":{"fd":0}}\0', 1)
    assert b"".join(data for data, _ in got[1:]) == b'{"parameters":{"text":"two"}}\0{"parameters":{"fd":0}}\0'
    assert [count for _, count in got if count] == [1, 1]


@pytest.mark.parametrize("more", [{}, {"oneway": True}])
def test_descriptors_that_cannot_be_sent_are_closed(service: Running, more: dict[str, bool]) -> None:
    client = service.connect()
    client.sendall(frame("Give", **more))
    assert service.event() == "giving"
    client.close()
    service.go()
    assert_serves(service)  # leaves to the fixture to look


def test_descriptors_of_a_reply_that_cannot_be_encoded_are_closed(service: Running) -> None:
    client = service.connect()
    client.sendall(ping("before"))
    reply(client)
    before = open_fds()
    client.sendall(frame("Mangle"))
    assert reply(client)["error"] == f"{NAME}.InternalError"
    assert open_fds() == before


# Streams


def test_a_stream_continues_until_its_last_reply(service: Running) -> None:
    client = service.connect()
    client.sendall(frame("Count", {"to": 3}, more=True) + ping("after"))
    assert replies(client, 4) == [
        {"parameters": {"number": 0}, "continues": True},
        {"parameters": {"number": 1}, "continues": True},
        {"parameters": {"number": 2}},
        {"parameters": {"text": "after"}},
    ]


def test_a_stream_without_a_last_reply_is_a_failure_of_ours(service: Running) -> None:
    client = service.connect()
    client.sendall(frame("Stop", more=True))
    assert replies(client, 2) == [
        {"parameters": {"number": 0}, "continues": True},
        {"error": f"{NAME}.InternalError", "parameters": {}},
    ]


def test_a_watcher_hears_of_each_change_at_once(service: Running) -> None:
    client = service.connect()
    client.sendall(frame("Watch", more=True))
    assert reply(client) == {"parameters": {"number": 0}, "continues": True}
    service.go()
    assert reply(client) == {"parameters": {"number": 1}, "continues": True}


def test_a_stream_ends_with_its_client(service: Running) -> None:
    client = service.connect()
    client.sendall(frame("Watch", more=True))
    assert service.event() == "watching"
    client.close()
    assert service.event() == "unwatched"


def test_a_stream_ends_with_its_client_that_ended_before(service: Running) -> None:
    client = service.connect()
    client.sendall(frame("Wait") + frame("Watch", more=True))
    assert service.event() == "waiting"
    client.shutdown(socket.SHUT_WR)
    assert_serves(service)
    service.go()
    while service.event() != "unwatched":
        pass


def test_a_plain_call_is_finished_although_its_client_is_gone(service: Running) -> None:
    client = service.connect()
    client.sendall(frame("Count", {"to": 2}, more=True) + frame("Wait"))
    assert service.event() == "waiting"
    client.close()
    assert_serves(service)
    service.go()
    assert [service.event(), service.event()] == ["ping still here", "went"]


def test_a_stream_does_not_start_for_a_client_that_ended(start: Callable[..., Running]) -> None:
    service = start(frame=100)
    client = service.connect()
    client.sendall(frame("Watch", more=True) + b"x" * 101)
    assert ending(client) == b""


def test_a_watcher_that_sends_garbage_is_dropped(start: Callable[..., Running]) -> None:
    service = start()
    client = service.connect()
    client.sendall(frame("Watch", more=True))
    assert service.event() == "watching"
    client.sendall(b"x" * 65_537)
    assert service.event() == "unwatched"
    assert b"continues" in ending(client)


# The end


def test_close_answers_what_has_arrived(service: Running) -> None:
    """Also what only the kernel has: the loop has no turn between the call and the close."""
    waiting, new = service.connect(), service.connect()
    waiting.sendall(frame("Wait") + ping("behind"))
    new.sendall(ping("first"))
    assert reply(new) == {"parameters": {"text": "first"}}

    async def call_and_close() -> None:
        new.sendall(ping("just now"))
        await service.server.close(timeout=PATIENCE)

    closing = service.begin(call_and_close())
    assert reply(new) == {"parameters": {"text": "just now"}}
    assert ending(new) == b""
    assert not closing.done()
    service.go()
    assert [r["parameters"]["text"] for r in replies(waiting, 2)] == ["went", "behind"]
    assert ending(waiting) == b""
    closing.result(PATIENCE)


def test_close_ends_the_streams(service: Running) -> None:
    client = service.connect()
    client.sendall(frame("Watch", more=True))
    assert [service.event()] == ["watching"]
    service.run(service.server.close(timeout=PATIENCE))
    assert service.event() == "unwatched"
    assert ending(client) == b'{"parameters":{"number":0},"continues":true}\0'


def test_close_waits_no_longer_than_it_is_told(service: Running) -> None:
    stuck, deaf, idle = service.connect(), service.connect(), service.connect()
    stuck.sendall(frame("Wait"))
    assert service.event() == "waiting"
    for _ in range(3):  # more than the server can write
        deaf.sendall(ping("x" * 60_000))
    idle.sendall(b"{")
    service.run(service.server.close(timeout=0.01))
    assert "cancelled" in [service.event() for _ in range(service.example.events.qsize())]
    for client in (stuck, idle):
        assert ending(client) == b""


def test_a_successor_serves_who_came_in_between(start: Callable[..., Running], tmp_path: Path) -> None:
    service = start()
    before = service.connect()
    before.sendall(ping("before"))
    assert reply(before) == {"parameters": {"text": "before"}}
    service.run(service.server.close())
    between = service.connect()
    between.sendall(ping("between"))
    successor = service.run(service._start(None))
    assert reply(between) == {"parameters": {"text": "between"}}
    service.server = successor


# Foreign clients


def test_the_varlink_library_as_client(service: Running) -> None:
    client = varlink.Client.new_with_address(f"unix:{service.path}")
    assert client.get_interfaces() == [NAME, "org.varlink.service"]
    assert client.info == {
        "vendor": "Example",
        "product": "Test",
        "version": "1",
        "url": "http://example.org",
        "interfaces": [NAME, "org.varlink.service"],
    }
    assert "Everything that a parameter can be" not in client.get_interface(NAME).get_description()
    with client.open(NAME) as example:
        assert example.Ping("hello", mood="good", numbers=[1, 2]) == {"text": "hello"}
        assert [r["number"] for r in example.Count(3, _more=True)] == [0, 1, 2]
        assert example.Ping("quiet", _oneway=True) is None
        with pytest.raises(varlink.VarlinkError) as failed:
            example.Fail()
        assert failed.value.error() == f"{NAME}.TooLate"
        assert failed.value.parameters() == {"by": 3}
        with pytest.raises(varlink.InvalidParameter) as invalid:
            example.Ping(text="x", numbers=[-1])
        assert invalid.value.parameters() == {"parameter": "numbers"}
        with pytest.raises(varlink.VarlinkError) as expected:
            example.Watch()
        assert expected.value.error() == "org.varlink.service.ExpectedMore"
    with pytest.raises(varlink.InterfaceNotFound):
        client.open("org.example.Other", connection=service.connect())


class ForeignTooLate(asyncvarlink.TypedVarlinkErrorReply, name=f"{NAME}.TooLate"):
    class Parameters:
        by: int


class Foreign(asyncvarlink.VarlinkInterface, name=NAME):
    """The same interface as the other library declares it; its bodies are never run."""

    errors = (ForeignTooLate, asyncvarlink.serviceinterface.InvalidParameter)

    @asyncvarlink.varlinkmethod(return_parameter="text")
    async def Ping(self, *, text: str, mood: str | None = None) -> str:
        return ""

    @asyncvarlink.varlinkmethod
    async def Fail(self) -> None: ...

    @asyncvarlink.varlinkmethod(return_parameter="number")
    async def Count(self, *, to: int) -> AsyncGenerator[int, None]:
        yield 0

    @asyncvarlink.varlinkmethod(return_parameter="fd")
    async def Give(self) -> asyncvarlink.FileDescriptor:
        return asyncvarlink.FileDescriptor(None)


def test_the_asyncvarlink_library_as_client(service: Running) -> None:
    service.go()

    async def talk() -> None:
        transport, protocol = await asyncvarlink.connect_unix_varlink(asyncvarlink.VarlinkClientProtocol, service.path)
        example = asyncvarlink.VarlinkInterfaceProxy(protocol, Foreign)
        about = asyncvarlink.VarlinkInterfaceProxy(protocol, asyncvarlink.serviceinterface.VarlinkServiceInterface)
        assert (await about.GetInfo())["interfaces"] == [NAME, "org.varlink.service"]
        with pytest.raises(asyncvarlink.serviceinterface.InterfaceNotFound):
            await about.GetInterfaceDescription(interface="org.example.Other")
        assert f"interface {NAME}" in (await about.GetInterfaceDescription(interface=NAME))["description"]
        assert await example.Ping(text="hello", mood="good") == {"text": "hello"}
        many = await asyncio.gather(*(example.Ping(text=str(number)) for number in range(50)))
        assert [answer["text"] for answer in many] == [str(number) for number in range(50)]
        await example.Ping.oneway(text="quiet")
        assert [answer["number"] async for answer in example.Count(to=3)] == [0, 1, 2]
        with pytest.raises(ForeignTooLate) as failed:
            await example.Fail()
        assert failed.value.parameters == {"by": 3}
        with pytest.raises(asyncvarlink.serviceinterface.InvalidParameter):
            await example.Ping(text="x", mood="ugly")
        with await example.Give() as answer:
            assert os.read(answer["fd"].fileno(), 10) == b"hello"
        transport.close()
        await transport.closed_future

    asyncio.run(talk())


# The blocking client


def test_client_calls_fails_and_streams(service: Running) -> None:
    with Client(service.path) as client:
        assert client.call(f"{NAME}.Ping", {"text": "x" * 60_000}) == {"text": "x" * 60_000}
        with pytest.raises(CallError) as failed:
            client.call(f"{NAME}.Fail")
        assert (failed.value.name, failed.value.parameters) == (f"{NAME}.TooLate", {"by": 3})
        assert client.call(f"{NAME}.Ping", {"text": "after"}) == {"text": "after"}
        assert list(client.stream(f"{NAME}.Count", {"to": 3})) == [{"number": n} for n in range(3)]


def test_client_gives_a_stream_up(service: Running) -> None:
    stream = Client(service.path).stream(f"{NAME}.Watch")
    assert next(stream) == {"number": 0}
    stream.close()
    assert [service.event(), service.event()] == ["watching", "unwatched"]


def test_client_holds_no_descriptors_of_a_stream(service: Running) -> None:
    client = Client(service.path)
    for answer in client.stream(f"{NAME}.Deal"):
        assert answer == {"fd": 0}
        assert len(client._fds) == 1


def test_client_waits_for_the_first_reply_of_a_stream_only_so_long(service: Running) -> None:
    stream = Client(service.path, timeout=0.1).stream(f"{NAME}.Watch")
    assert next(stream) == {"number": 0}
    with ThreadPoolExecutor() as threads:
        second = threads.submit(next, stream)
        for _ in range(3):
            with pytest.raises(Unavailable) as silent:
                Client(service.path, timeout=0.1).call(f"{NAME}.Wait")
            assert silent.value.errno == errno.ETIMEDOUT
        service.go()  # by now, more than the limit has passed for the stream as well
        assert second.result(PATIENCE) == {"number": 1}
    stream.close()


def test_client_says_why_there_is_no_service(tmp_path: Path, service: Running) -> None:
    missing, dead = tmp_path / "missing", tmp_path / "dead"
    listen(str(dead)).close()
    for path, number in ((missing, errno.ENOENT), (dead, errno.ECONNREFUSED), (tmp_path, errno.ECONNREFUSED)):
        with pytest.raises(Unavailable) as failed:
            Client(str(path))
        assert failed.value.errno == number
        assert failed.value.filename == str(path)
        assert os.strerror(number) in str(failed.value)


@pytest.mark.parametrize(
    ("answer", "number"),
    [(b"", errno.ECONNRESET), (b'{"half', errno.ECONNRESET), (b"garbage\0", errno.EPROTO), (b"[1]\0", errno.EPROTO)],
)
def test_client_believes_no_broken_service(tmp_path: Path, answer: bytes, number: int) -> None:
    path = str(tmp_path / "socket")
    with listen(path) as listener:
        client = Client(path)
        service, _ = listener.accept()
        with service:
            service.sendall(answer)
            service.shutdown(socket.SHUT_WR)
            with pytest.raises(Unavailable) as failed:
                client.call("a.b")
        assert failed.value.errno == number
        assert client.sock.fileno() == -1


def test_client_waits_for_room_in_the_backlog(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        with Client(path):
            with pytest.raises(Unavailable) as full:
                Client(path, timeout=0.01)
            assert full.value.errno == errno.ETIMEDOUT
