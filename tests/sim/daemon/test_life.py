"""From start to stop, and what a successor finds."""

import asyncio
import logging
import socket
from pathlib import Path

import pytest

from ali_enclaves_allocator.change.ledger import Ledger
from ali_enclaves_allocator.model.errors import AllocatorError, AlreadyRunning
from ali_enclaves_allocator.model.events import TASK_DISPLACED
from tests.sim.daemon.stand import DOCUMENTED
from tests.sim.daemons import get_pool, new_daemon, run, running, socket_of
from tests.sim.host import BOOT_ID, Host


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
