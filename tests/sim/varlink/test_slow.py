"""Clients that are slow, or take too much."""

import asyncio
import contextlib
import os
import select
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ali_enclaves_allocator.server.varlink import Limits
from ali_enclaves_allocator.server.wire import RECEIVE_BYTES, Account
from tests.sim.varlink.example import PATIENCE, Running, Wires, assert_serves, ending, frame, ping, replies, reply


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
        assert theirs.recv(100) == b"one\0"
        wire.send(bytes(4 * Limits().sent), [os.open("/dev/null", os.O_RDONLY)])
        assert not wire.ended
        wire.send(b"three\0", [os.open("/dev/null", os.O_RDONLY)])  # while something waits
        assert wire.ended and account.held == others

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


def test_root_is_let_in_where_many_uids_have_all_connections(
    start: Callable[..., Running], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One user may have many uids (subuid(5)), each with connections of its own."""
    service = start(all_connections=2)
    tmp_path.chmod(0o755)
    os.chmod(service.path, 0o666)
    monkeypatch.chdir(tmp_path)

    def connect(uid: int) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        service.clients.append(client)
        os.seteuid(uid)
        try:
            client.connect(os.path.basename(service.path))
        finally:
            os.seteuid(0)
        return client

    for uid in (100_001, 100_002):
        client = connect(uid)
        client.sendall(ping("in"))
        assert reply(client) == {"parameters": {"text": "in"}}
    assert ending(connect(100_003)) == b""
    assert_serves(service)
