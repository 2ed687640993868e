"""Those who ask and watch, many of them, whenever they come and go."""

import asyncio
import json
import os
import socket
import subprocess
import threading
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any

import pytest

from ali_enclaves_allocator import cli
from ali_enclaves_allocator.ask import watched
from ali_enclaves_allocator.daemon import Daemon
from ali_enclaves_allocator.server.interface import NAME
from enclave_cli.client import Unavailable
from tests.sim.daemon.stand import status_command
from tests.sim.daemons import get_pool, new_daemon, run, running, socket_of, until
from tests.sim.host import Host


def test_watch_tells_the_pool_and_every_change(host: Host) -> None:
    async def test() -> None:
        daemon = new_daemon(host)
        await daemon.start()
        reader, writer = await asyncio.open_unix_connection(socket_of(host), limit=1 << 20)
        writer.write(json.dumps({"method": f"{NAME}.Watch", "more": True}).encode() + b"\0")

        async def told() -> dict[str, Any]:
            reply = json.loads((await reader.readuntil(b"\0"))[:-1])
            pool: dict[str, Any] = reply["parameters"]["pool"]
            return pool

        assert (await told())["state"] == "ready"
        host.simulation.memory[1].free_kib -= 64 * 1024
        daemon.look()  # and nobody is told that memory moves
        host.configure(memory_mib=96, cpu_count=4)
        await daemon.reload()
        assert (await told())["memory_mib"] == 96
        stop: Awaitable[None] = asyncio.ensure_future(daemon.stop(keep=False))
        assert (await told())["state"] == "stopping"
        await stop
        assert await reader.read() == b""
        writer.close()

    run(test)


def test_a_reader_that_has_enough_is_no_fault(host: Host) -> None:
    """As `status | head -1` does."""

    async def test() -> None:
        async with running(host):
            command = status_command(host)
            read, write = os.pipe()
            os.close(read)
            done = await asyncio.to_thread(
                lambda: subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
            )
            os.close(write)
            assert (done.returncode, done.stderr) == (141, b"")

    run(test)


def test_a_watch_whose_reader_has_gone_ends_without_another_change(host: Host) -> None:
    """As of `status --watch | head -1`: a writer would learn it with the next state only, which may be days away."""

    async def test() -> None:
        async with running(host):
            command = status_command(host, "--json", "--watch")
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watch:
                assert watch.stdout and watch.stderr
                try:
                    assert await asyncio.to_thread(watch.stdout.readline)
                    watch.stdout.close()
                    assert await asyncio.to_thread(watch.wait, 30) == cli.READER_GONE
                finally:
                    watch.kill()
                assert watch.stderr.read() == b""

    run(test)


def test_a_watch_that_a_stop_ends_is_no_fault(host: Host) -> None:
    async def test() -> None:
        command = status_command(host, "--json", "--watch")
        async with running(host):
            watch = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            assert watch.stdout and json.loads(await asyncio.to_thread(watch.stdout.readline))["state"] == "ready"
        try:
            out, said = await asyncio.to_thread(watch.communicate, timeout=30)
        finally:
            watch.kill()
        assert json.loads(out.splitlines()[-1])["state"] == "stopping"
        assert watch.returncode == cli.NOT_RUNNING
        assert said == (
            "ali-enclaves-allocator has ended the watch, most often because it stopped; "
            "how it stands now: ali-enclaves-allocator status\n"
        )

    run(test)


def test_a_watch_goes_on_with_the_next_service(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        states: list[str] = []
        read, write = os.pipe()
        kept = socket.socket(socket.AF_UNIX)  # as systemd keeps it over a restart
        kept.bind(socket_of(host))
        kept.listen()

        def service() -> AbstractAsyncContextManager[Daemon]:
            inherited = kept.dup()
            inherited.setblocking(False)
            monkeypatch.setattr("ali_enclaves_allocator.unit.stored_socket", lambda: inherited)
            return running(host, keep=True)

        def watch() -> None:
            with suppress(Unavailable):
                states.extend(pool["state"] for pool in watched(socket_of(host), write))

        async with service():
            watching = asyncio.create_task(asyncio.to_thread(watch))
            await until(lambda: "ready" in states)
        states.clear()
        async with service():
            await until(lambda: "ready" in states)
        kept.close()
        await watching
        os.close(read)
        os.close(write)

    run(test)


def test_a_client_is_answered_while_the_pool_is_made(host: Host) -> None:
    started, go_on = threading.Event(), threading.Event()
    kernel = host.simulation.kernel
    settle = kernel.banks.settle

    def slow(bank: Any, leases: Any) -> None:
        started.set()
        assert go_on.wait(10)
        settle(bank, leases)

    async def test() -> None:
        kernel.banks.settle = slow  # type: ignore[method-assign]
        daemon = new_daemon(host)
        start = asyncio.ensure_future(daemon.start())
        await asyncio.to_thread(started.wait, 10)
        assert (await get_pool(host))["state"] == "starting"
        go_on.set()
        await start
        assert (await get_pool(host))["state"] == "ready"
        await daemon.stop(keep=False)

    run(test)


def test_two_hundred_clients_at_once_are_all_answered(host: Host) -> None:
    async def ask() -> str:
        reader, writer = await asyncio.open_unix_connection(socket_of(host), limit=1 << 20)
        writer.write(json.dumps({"method": f"{NAME}.GetPool"}).encode() + b"\0")
        reply = json.loads((await reader.readuntil(b"\0"))[:-1])
        writer.close()
        await writer.wait_closed()
        return str(reply["parameters"]["pool"]["state"])

    async def test() -> None:
        async with running(host):
            assert await asyncio.gather(*(ask() for _ in range(200))) == ["ready"] * 200

    run(test)
