"""What the daemon sees of a machine that changes under it, and shows."""

import asyncio
import errno
import logging
import threading
from dataclasses import replace

import pytest

from ali_enclaves_allocator import unit
from ali_enclaves_allocator.change.ledger import Ledger
from ali_enclaves_allocator.daemon import Daemon, Paths
from ali_enclaves_allocator.model.events import POOL_DEGRADED
from ali_enclaves_allocator.server import monitor
from tests.conftest import Boot
from tests.machines import HUGE, TORN_CORES
from tests.sim.daemon.stand import DOCUMENTED
from tests.sim.daemons import get_pool, run, running
from tests.sim.host import BOOT_ID, Host


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


def test_an_answer_is_of_the_pool_that_the_ledger_has(host: Host) -> None:
    """Also while a change that is recorded there is not done in every other way: else GetPool and ListLeases differ."""
    ledger = Ledger(host.directory, BOOT_ID)
    daemon = Daemon(Paths(host.config_path, host.directory), host.simulation.kernel, ledger)
    recorded, seen = threading.Event(), threading.Event()

    def work() -> None:
        pool = ledger.record.pool
        ledger.save(pool=replace(pool, cores=()))
        recorded.set()
        assert seen.wait(10)
        ledger.save(pool=pool)

    async def test() -> None:
        await daemon.start()
        assert daemon.view().cpus == [2, 3]
        change = asyncio.create_task(daemon.change(work))
        await asyncio.to_thread(recorded.wait, 10)
        assert daemon.view().cpus == []
        seen.set()
        await change
        assert daemon.view().cpus == [2, 3]
        await daemon.stop(keep=False)

    run(test)
