"""Daemons on simulated hosts: how tests run one, ask it, and see that nothing of it is left."""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from ali_enclaves_allocator.change.ledger import Ledger
from ali_enclaves_allocator.daemon import Daemon, Paths
from ali_enclaves_allocator.server.interface import NAME
from enclave_cli.client import Client
from tests.sim.host import BOOT_ID, Host


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's coroutine; afterwards no task, thread or descriptor of it may be left."""
    fds, threads = open_fds(), set(threading.enumerate())

    async def whole() -> None:
        await test()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left

    asyncio.run(whole())
    assert open_fds() == fds
    assert set(threading.enumerate()) == threads


def new_daemon(host: Host) -> Daemon:
    paths = Paths(host.config_path, host.directory)
    return Daemon(paths, host.simulation.kernel, Ledger(host.directory, BOOT_ID))


@asynccontextmanager
async def running(host: Host, *, keep: bool = False) -> AsyncIterator[Daemon]:
    """Run a daemon; stop it at the end as systemd would, for good or for its successor."""
    daemon = new_daemon(host)
    await daemon.start()
    try:
        yield daemon
    finally:
        await daemon.stop(keep=keep)


def socket_of(host: Host) -> str:
    return str(host.directory / "allocator.sock")


async def get_pool(host: Host) -> dict[str, Any]:
    def ask() -> dict[str, Any]:
        with Client(socket_of(host)) as client:
            pool: dict[str, Any] = client.call(f"{NAME}.GetPool")["pool"]
            return pool

    return await asyncio.to_thread(ask)


async def until(check: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until a check holds."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not come true"
        await asyncio.sleep(0.01)


def open_fds() -> set[str]:
    return {
        f"{fd}:{os.readlink(f'/proc/self/fd/{fd}')}"
        for fd in os.listdir("/proc/self/fd")
        if int(fd) > 2 and fd_is_open(fd)
    }


def fd_is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}") and "/proc/" not in os.readlink(f"/proc/self/fd/{fd}")
