"""Descriptors that come with calls and replies."""

import os
import socket

import pytest

from enclave_cli.client import Client
from tests.sim.varlink.example import NAME, Running, assert_serves, frame, open_fds, ping, reply


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
