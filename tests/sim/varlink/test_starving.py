"""A server that has no descriptor left waits, and says so once."""

import contextlib
import os
import resource
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ali_enclaves_allocator.server.varlink import Limits
from tests.sim.varlink.example import PATIENCE, Running, ping, reply


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
