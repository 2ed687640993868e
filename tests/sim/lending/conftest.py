"""A host whose daemon lends, and callers that end with the test; after it no thread or descriptor may be left."""

import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from ali_enclaves_allocator import admission
from tests.conftest import Boot
from tests.machines import ONE_NODE
from tests.sim.daemons import open_fds
from tests.sim.host import Host
from tests.sim.lending.callers import CONFIG, GROUP_ID, Caller, RealHolders


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Fail if a test leaves a descriptor or a thread behind."""
    gc.collect()
    fds, threads = open_fds(), set(threading.enumerate())
    yield
    gc.collect()
    assert open_fds() == fds
    assert set(threading.enumerate()) == threads


@pytest.fixture
def callers(nothing_left: None) -> Iterator[list[Caller]]:
    """Whatever process a test starts ends with it."""
    started: list[Caller] = []
    yield started
    for caller in started:
        caller.end()


@pytest.fixture
def host(boot: Boot, callers: list[Caller], monkeypatch: pytest.MonkeyPatch) -> Host:
    host = boot(ONE_NODE)
    host.configure(**CONFIG)
    simulation = host.simulation
    simulation.kernel = replace(simulation.kernel, processes=RealHolders(simulation))

    def kill(pid: int) -> None:
        """End a task of a scope, if it is a process of this test."""
        with suppress(ProcessLookupError):
            if os.getsid(pid) in {caller.pid for caller in callers}:
                os.kill(pid, signal.SIGKILL)
        for name in [name for name, scope in simulation.scopes.items() if pid in scope.pids]:
            del simulation.scopes[name]

    monkeypatch.setattr(simulation, "kill", kill)
    monkeypatch.setattr(admission.grp, "getgrnam", lambda name: SimpleNamespace(gr_gid=GROUP_ID))
    for directory in (host.directory, host.directory.parent):
        directory.chmod(0o711)
    return host


@pytest.fixture
def call_from(host: Host, callers: list[Caller]) -> Callable[..., Caller]:
    def start(**options: Any) -> Caller:
        callers.append(Caller(host, **options))
        return callers[-1]

    return start
