"""A file brought into force while the service runs, or refused."""

import asyncio
import errno
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from ali_enclaves_allocator import cli
from ali_enclaves_allocator.model.errors import NotGivenBack
from ali_enclaves_allocator.model.placement import NoNodeFits
from ali_enclaves_allocator.model.refusals import ReloadRefused
from ali_enclaves_allocator.server.contract import Call, Nothing, Peer, VarlinkError
from ali_enclaves_allocator.server.interface import NAME
from ali_enclaves_allocator.server.service import Service
from enclave_cli.client import CallError, Client
from tests.sim.daemons import get_pool, new_daemon, run, running, socket_of
from tests.sim.host import Host


def test_reload_changes_the_pool_or_nothing(host: Host) -> None:
    async def test() -> None:
        async with running(host) as daemon:
            host.configure(memory_mib=96, cpu_count=4)
            await daemon.reload()
            assert (await get_pool(host))["cpus"] == [4, 5, 6, 7]
            host.assert_pool_stands()
            host.configure(memory_mib=96, cpu_count=8)
            before = host.state
            with pytest.raises(NoNodeFits, match="node 0: 6 CPUs short"):
                await daemon.reload()
            assert host.state == before
            refused = await get_pool(host)
            assert (refused["state"], refused["cpus"]) == ("degraded", [4, 5, 6, 7]), "the next boot would give no pool"
            assert "6 CPUs short" in refused["summary"]
        host.assert_untouched()

    run(test)


def test_a_reload_that_leaves_something_undone_is_degraded_until_it_is_done(host: Host) -> None:
    async def test() -> None:
        async with running(host) as daemon:
            host.effects.fail("unmount bank0", errno.EBUSY)
            host.configure(memory_mib=64, cpu_pool="6-7")
            with pytest.raises(NotGivenBack):
                await daemon.reload()
            pool = await get_pool(host)
            assert (pool["state"], pool["cpus"]) == ("degraded", [6, 7])
            assert "Device or resource busy" in pool["reason"]
            host.effects.restart()
            await daemon.reload()
            assert (await get_pool(host))["state"] == "ready"
            host.assert_pool_stands()
        host.assert_untouched()

    run(test)


def test_a_reload_that_comes_while_the_service_stops_makes_no_pool(host: Host) -> None:
    giving, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        giving.set()
        assert go_on.wait(10)

    async def test() -> None:
        daemon = new_daemon(host)
        await daemon.start()
        host.effects.before("unmount", wait)
        stop = asyncio.ensure_future(daemon.stop(keep=False))
        await asyncio.to_thread(giving.wait, 10)
        reload = asyncio.ensure_future(daemon.reload())
        await asyncio.sleep(0)
        go_on.set()
        await stop
        with pytest.raises(ReloadRefused, match="cannot reload: the service is stopping; nothing was changed"):
            await reload
        host.assert_untouched()

    run(test)


def test_reload_over_the_socket_tells_the_error(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def reload() -> dict[str, Any]:
        with Client(socket_of(host)) as client:
            return client.call(f"{NAME}.Reload")

    async def test() -> None:
        async with running(host):
            host.config_path.write_text("- a list\n")
            with pytest.raises(CallError) as raised:
                await asyncio.to_thread(reload)
            assert raised.value.name == f"{NAME}.ReloadFailed"
            assert raised.value.parameters["exit_code"] == 78
            assert f"{host.config_path}:1:1" in raised.value.parameters["message"]

    run(test)


def test_a_fault_in_a_reload_is_not_told_as_a_refusal(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing but 1 was returned, as to whom it is not permitted, and nothing but the name of the error told."""

    async def fail() -> None:
        raise ZeroDivisionError

    async def test() -> None:
        monkeypatch.setattr(cli, "DIRECTORY", host.directory)
        async with running(host) as daemon:
            monkeypatch.setattr(daemon, "reload", fail)
            assert await asyncio.to_thread(cli.main, ["reload"]) == cli.EX_SOFTWARE
        told = f"cannot reload: {NAME}.InternalError; the log of ali-enclaves-allocator says why\n"
        assert capsys.readouterr().err == told

    run(test)


def test_a_reload_by_systemd_is_told_once(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What the service has logged is not told once more where the command's own words go to the journal, too."""

    async def test() -> None:
        monkeypatch.setattr(cli, "DIRECTORY", host.directory)
        async with running(host):
            for journal in (False, True):
                if journal:
                    stream = os.fstat(sys.stderr.fileno())
                    monkeypatch.setenv("JOURNAL_STREAM", f"{stream.st_dev}:{stream.st_ino}")
                host.config_path.write_text("memory_mib: x")
                assert await asyncio.to_thread(cli.main, ["reload"]) == 78
                assert bool(capfd.readouterr().err) != journal

    run(test)


def test_only_root_may_reload() -> None:
    async def test() -> None:
        class Untouched:
            def __getattr__(self, name: str) -> None:
                pytest.fail(f"asked for {name}")

        service = Service(Untouched())  # type: ignore[arg-type]
        call = Call(Peer(1, 1000, 1000, None), f"{NAME}.Reload", more=False)  # type: ignore[arg-type]
        with pytest.raises(VarlinkError) as raised:
            await service.reload(call, Nothing())
        assert raised.value.name == f"{NAME}.NotPermitted"
        assert raised.value.parameters["need"] == "root"

    run(test)
