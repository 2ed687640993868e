"""After every test nothing may be left: no task, descriptor or thread."""

import gc
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ali_enclaves_allocator.server.varlink import Limits
from ali_enclaves_allocator.server.wire import Account, Wire
from tests.sim.varlink.example import Running, Wires, open_fds


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Fail if a test leaves a descriptor or a thread behind."""
    fds, threads = open_fds(), set(threading.enumerate())
    yield
    if open_fds().items() - fds.items():
        gc.collect()  # the foreign clients leave it to their objects' end
    assert not open_fds().items() - fds.items()  # what is gone was an earlier test's garbage
    assert set(threading.enumerate()) == threads


@pytest.fixture(params=[True, False], ids=["at once", "by a task"])
def start(request: pytest.FixtureRequest, tmp_path: Path, nothing_left: None) -> Iterator[Callable[..., Running]]:
    """Start servers; they are stopped after the test, before what they left behind is looked for."""
    running: list[Running] = []

    def begin(**limits: Any) -> Running:
        running.append(Running(tmp_path / f"socket{len(running)}", Limits(**limits), at_once=request.param))
        return running[-1]

    yield begin
    for server in running:
        server.stop()


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
