"""The whole daemon over its real socket, on the simulated kernel."""

import asyncio
import errno
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from ali_enclaves_allocator import cli, unit
from ali_enclaves_allocator.change.ledger import Ledger
from ali_enclaves_allocator.model.errors import AllocatorError, AlreadyRunning, NotGivenBack
from ali_enclaves_allocator.model.events import POOL_DEGRADED, TASK_DISPLACED
from ali_enclaves_allocator.model.placement import NoNodeFits
from ali_enclaves_allocator.model.refusals import ReloadRefused
from ali_enclaves_allocator.server import monitor
from ali_enclaves_allocator.server.contract import Call, Nothing, Peer, VarlinkError
from ali_enclaves_allocator.server.interface import NAME
from ali_enclaves_allocator.server.service import Service
from enclave_cli.client import CallError, Client, Unavailable
from tests.conftest import Boot
from tests.machines import GUEST_2X2X2, HUGE, TORN_CORES
from tests.sim.daemons import get_pool, new_daemon, run, running, socket_of
from tests.sim.host import BOOT_ID, Host

DOCUMENTED = {"memory_mib": 64, "cpu_count": 2}


@pytest.fixture
def host(boot: Boot) -> Host:
    host = boot(GUEST_2X2X2)
    host.configure(**DOCUMENTED)
    return host


async def status(host: Host, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr(cli, "DIRECTORY", host.directory)
    return await asyncio.to_thread(cli.main, ["status", *options])


def test_start_serves_the_pool_and_stop_gives_it_back(host: Host) -> None:
    async def test() -> None:
        async with running(host) as daemon:
            host.assert_pool_stands()
            pool = await get_pool(host)
            assert (pool["state"], pool["cpus"], pool["memory_mib"]) == ("ready", [2, 3], 64)
            assert pool["summary"] == "pool ready: CPUs 2-3 (1 core) on node 0, 64 MiB in 32×2M; no leases"
            assert pool["nodes"][0]["hugepages"][0] == {
                "hugepage_size": "2M",
                **{"asked": 32, "granted": 32, "leased": 0, "free": 32, "others_total": 0, "others_free": 0},
            }
            assert [core["use"] for core in pool["nodes"][0]["cores"]] == ["kept", "pool"]
            assert await daemon.healthy()
        host.assert_untouched()
        assert not Path(socket_of(host)).exists()

    run(test)


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ({"cpu_count": 2}, "ConfigInvalid"),
        ({"memory_mib": 64, "cpu_count": 3}, "ConfigInvalid"),
        ({"memory_mib": 64, "cpu_count": 6}, "NoNodeFits"),
    ],
)
def test_a_start_that_fails_leaves_nothing(host: Host, keys: dict[str, int], error: str) -> None:
    async def test() -> None:
        host.configure(**keys)
        daemon = new_daemon(host)
        with pytest.raises(AllocatorError) as raised:
            await daemon.start()
        await daemon.close()
        assert type(raised.value).__name__ == error
        host.assert_untouched()
        assert not Path(socket_of(host)).exists()

    run(test)


def test_a_restart_with_a_broken_file_serves_the_pool_degraded(host: Host) -> None:
    async def test() -> None:
        async with running(host, keep=True):
            pass
        host.config_path.write_text("memory_mib: 64\ncpu_cuont: 2\n")
        before = host.effects.names
        async with running(host, keep=True):
            assert host.effects.names == before, "no effect on the machine"
            pool = await get_pool(host)
            assert pool["state"] == "degraded"
            assert f"{host.config_path}:2:1: cpu_cuont: unknown key" in pool["reason"]
            assert pool["summary"].startswith("pool degraded: CPUs 2-3 (1 core) on node 0")
            assert pool["summary"].count("\n") == 0
        host.configure(**DOCUMENTED)
        async with running(host):
            assert (await get_pool(host))["state"] == "ready"
        host.assert_untouched()

    run(test)


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


def test_drift_is_shown_told_once_and_goes(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with running(host) as daemon:
            host.simulation.online.add(2)
            daemon.look()
            daemon.look()
            pool = await get_pool(host)
            assert pool["state"] == "degraded"
            assert pool["drift"] == [{"what": "CPU 2", "wanted": "offline", "got": "online: the host runs on them"}]
            told = [r for r in caplog.records if getattr(r, "MESSAGE_ID", None) == POOL_DEGRADED["MESSAGE_ID"]]
            assert len(told) == 1
            await daemon.reload()
            assert (await get_pool(host))["state"] == "ready"
            host.assert_pool_stands()
        host.assert_untouched()

    with caplog.at_level(logging.INFO):
        run(test)


def test_a_pool_whose_cpu_was_unplugged_is_served_and_told(host: Host) -> None:
    async def test() -> None:
        async with running(host) as daemon:
            host.simulation.unplug(3)
            daemon.look()
            pool = await get_pool(host)
            assert pool["drift"] == [
                {"what": "CPU 3", "wanted": "present", "got": "unplugged: the machine no longer has it"}
            ]
            assert [core["cpus"] for core in pool["nodes"][0]["cores"]] == [[0, 1]]
            await daemon.reload()
            pool = await get_pool(host)
            assert (pool["state"], pool["cpus"]) == ("ready", [6, 7]), "another core takes its place"
            assert 2 in host.state.online

    run(test)


def test_a_torn_core_is_shown_as_the_hosts(boot: Boot) -> None:
    host = boot(TORN_CORES)
    host.configure(**DOCUMENTED)

    async def test() -> None:
        async with running(host):
            cores = (await get_pool(host))["nodes"][0]["cores"]
            assert [(core["cpus"], core["use"]) for core in cores] == [
                ([0, 1], "kept"),
                ([2], "kept"),
                ([4, 5], "pool"),
                ([6], "kept"),
            ]

    run(test)


def test_thousands_of_cpus_are_served(boot: Boot) -> None:
    host = boot(HUGE)
    host.configure(memory_mib=9000, cpu_count=3000, max_enclaves=64)

    async def test() -> None:
        async with running(host):
            pool = await get_pool(host)
            assert (pool["state"], len(pool["cpus"]), len(pool["nodes"])) == ("ready", 3000, 16)
            host.assert_pool_stands()
        host.assert_untouched()

    run(test)


def test_what_changes_between_ready_and_the_first_event_is_noticed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def notify(*told: str) -> None:
        if "READY=1" in told:
            host.simulation.online.add(2)

    monkeypatch.setattr(unit, "notify", notify)

    async def test() -> None:
        async with running(host) as daemon:
            while daemon.state != "degraded":
                await asyncio.sleep(0.01)

    run(lambda: asyncio.wait_for(test(), 10))


def test_a_look_that_fails_is_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    def look() -> None:
        looks.append(1)
        raise OSError(errno.ENODEV, "a node was unplugged while it was read")

    async def test() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        monkeypatch.setattr(monitor, "SLOW_SECONDS", 0.01)
        watching = monitor.Monitor(look)
        watching.start()
        while len(looks) < 3:
            await asyncio.sleep(0.01)
        watching.stop()

    run(lambda: asyncio.wait_for(test(), 10))


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
            code = (
                "import sys; from pathlib import Path; from ali_enclaves_allocator import cli; "
                f"cli.DIRECTORY = Path({str(host.directory)!r}); sys.exit(cli.main(['status']))"
            )
            read, write = os.pipe()
            os.close(read)
            command = [sys.executable, "-c", code]
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
            code = (
                "import sys; from pathlib import Path; from ali_enclaves_allocator import cli; "
                f"cli.DIRECTORY = Path({str(host.directory)!r}); sys.exit(cli.main(['status', '--json', '--watch']))"
            )
            command = [sys.executable, "-c", code]
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
        code = (
            "import sys; from pathlib import Path; from ali_enclaves_allocator import cli; "
            f"cli.DIRECTORY = Path({str(host.directory)!r}); sys.exit(cli.main(['status', '--json', '--watch']))"
        )
        command = [sys.executable, "-c", code]
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


def test_a_successor_adopts_the_pool_without_touching_it(host: Host) -> None:
    async def test() -> None:
        async with running(host, keep=True):
            pass
        before, effects = host.state, host.effects.names
        async with running(host):
            assert host.state == before
            assert host.effects.names == effects
            assert (await get_pool(host))["state"] == "ready"
        host.assert_untouched()

    run(test)


@pytest.mark.parametrize("removed", [False, True], ids=["kept", "file removed"])
def test_an_inherited_socket_is_used_while_clients_can_find_it(
    removed: bool, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    inherited = socket.socket(socket.AF_UNIX)
    inherited.bind(socket_of(host))
    inherited.listen()
    inherited.setblocking(False)
    if removed:
        Path(socket_of(host)).unlink()
    monkeypatch.setattr("ali_enclaves_allocator.unit.stored_socket", lambda: inherited)

    async def test() -> None:
        async with running(host) as daemon:
            assert await daemon.healthy()
            assert (inherited.fileno() == -1) == removed

    asyncio.run(test())
    assert inherited.fileno() == -1


def test_who_is_started_beside_a_service_does_not_wait_to_take_its_place(host: Host) -> None:
    async def test() -> None:
        async with running(host, keep=True):
            second = asyncio.ensure_future(new_daemon(host).start())
            ended, _ = await asyncio.wait([second], timeout=5)
        with pytest.raises(AlreadyRunning, match="another allocator holds"):
            await second
        assert ended, "while the service ran, not after it"
        async with running(host):
            host.assert_pool_stands()

    run(test)


def test_a_successor_waits_for_who_gives_back(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    inherited = socket.socket(socket.AF_UNIX)
    inherited.bind(socket_of(host))
    inherited.listen()
    inherited.setblocking(False)
    monkeypatch.setattr("ali_enclaves_allocator.unit.stored_socket", lambda: inherited)
    giving_back = Ledger(host.directory, BOOT_ID)
    giving_back.open()

    async def test() -> None:
        asyncio.get_running_loop().call_later(0.5, giving_back.close)
        async with running(host):
            assert inherited.fileno() != -1

    asyncio.run(test())


def test_a_successor_that_gets_no_ledger_keeps_no_socket(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    inherited = socket.socket(socket.AF_UNIX)
    monkeypatch.setattr("ali_enclaves_allocator.unit.stored_socket", lambda: inherited)
    monkeypatch.setattr("ali_enclaves_allocator.daemon.GIVE_BACK_SECONDS", 0)
    other = Ledger(host.directory, BOOT_ID)
    other.open()

    async def test() -> None:
        with pytest.raises(AlreadyRunning):
            await new_daemon(host).start()
        assert inherited.fileno() == -1

    asyncio.run(test())
    other.close()


def test_tasks_that_will_be_moved_are_named(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    from ali_enclaves_allocator.kernel.processes import Task
    from tests.sim.tasks import SimTask

    host.simulation.tasks.append(SimTask(Task(77, "pinned"), frozenset({2, 3})))
    host.simulation.tasks.append(SimTask(Task(78, "free"), frozenset({1, 2})))

    async def test() -> None:
        async with running(host):
            pass

    with caplog.at_level(logging.INFO):
        run(test)
    told = [r.getMessage() for r in caplog.records if getattr(r, "MESSAGE_ID", None) == TASK_DISPLACED["MESSAGE_ID"]]
    assert len(told) == 1
    assert "pinned[77]" in told[0]


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


def test_the_commands_tell_the_state_by_their_exit_status(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def test() -> None:
        assert await status(host, monkeypatch) == cli.NOT_RUNNING
        said = capsys.readouterr().err
        assert "is not running; start it: systemctl start ali-enclaves-allocator (if that was refused: " in said
        assert "systemctl status ali-enclaves-allocator says why, ali-enclaves-allocator check tries the file" in said
        async with running(host) as daemon:
            assert await status(host, monkeypatch) == 0
            shown = capsys.readouterr().out
            assert "[0 1 kept] [2 3 pool]" in shown
            assert "2M pages: pool 32 of 32 (0 leased, 32 free for enclaves)" in shown
            assert await status(host, monkeypatch, "--json") == 0
            assert json.loads(capsys.readouterr().out)["state"] == "ready"
            host.simulation.online.add(3)
            daemon.look()
            assert await status(host, monkeypatch) == 1
            assert "drift: CPU 3: online" in capsys.readouterr().out

    run(test)


def test_colour_is_for_terminals_whose_user_wants_it(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def test() -> None:
        async with running(host):
            monkeypatch.setattr("sys.stdout.isatty", lambda: True)
            for setting, coloured in ((None, True), ("", True), ("1", False)):
                monkeypatch.delenv("NO_COLOR", raising=False)
                if setting is not None:
                    monkeypatch.setenv("NO_COLOR", setting)
                await status(host, monkeypatch)
                assert ("\x1b[" in capsys.readouterr().out) == coloured

    run(test)


@pytest.mark.parametrize("words", [["--vers"], ["status", "--wat"], ["plan", "--js"], ["metrics", "--out", "/"]])
def test_an_option_is_written_out(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What a shorter word means would change with the next option."""
    with pytest.raises(SystemExit) as refused:
        cli.main(words)
    assert refused.value.code == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("command", ["status", "reload"])
def test_a_service_that_is_lost_before_it_answers_is_not_called_stopped(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether a reload was carried out, nobody knows then."""
    monkeypatch.setattr(cli, "DIRECTORY", tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "allocator.sock"))
        listener.listen()

        def lose() -> None:
            client, _ = listener.accept()
            client.close()

        service = threading.Thread(target=lose)
        service.start()
        assert cli.main([command]) == cli.NOT_RUNNING
        service.join()
    said = capsys.readouterr().err
    assert "ali-enclaves-allocator does not answer: " in said
    assert "nothing was changed" not in said


def test_status_given_up_before_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: Client) -> Client:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "DIRECTORY", tmp_path)
    monkeypatch.setattr(Client, "__enter__", interrupt)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "allocator.sock"))
        listener.listen()
        assert cli.main(["status"]) == cli.NOT_RUNNING


def test_no_socket_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        Client(str(tmp_path / "none"))
