"""Streams of replies, and what ends them."""

import socket
from collections.abc import Callable
from pathlib import Path

from tests.sim.varlink.example import NAME, PATIENCE, Running, assert_serves, ending, frame, ping, replies, reply


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
