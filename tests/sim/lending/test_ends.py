"""How a lease ends, whatever happens meanwhile."""

import asyncio
import errno
import logging
import os
import re
import threading
import time
from collections.abc import Callable

import pytest

from ali_enclaves_allocator.change.ledger import Ledger
from ali_enclaves_allocator.daemon import Daemon
from ali_enclaves_allocator.model.errors import KernelRefused
from ali_enclaves_allocator.model.events import LEASE_ENDED, LEASE_GRANTED
from ali_enclaves_allocator.model.lease import Request
from tests.sim.daemons import new_daemon, running, until
from tests.sim.host import Host
from tests.sim.lending.callers import ASKED, Caller, assert_whole, daemon_fds, peer_of, run, until_settled


def test_a_lease_ends_when_its_holder_is_killed(
    host: Host, call_from: Callable[..., Caller], caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with running(host) as daemon:
            caller = call_from()
            reply = await caller.call("Acquire", name="web", annotations={"EnclaveCID": 16}, **ASKED)
            lease, (memory,) = reply["lease"], reply["fds"]
            assert memory == [16 << 20, 0, 0, 0o660]
            assert (lease["cpus"], lease["node"], lease["memory_mib"], lease["name"]) == ([6, 7], 0, 16, "web")
            assert (lease["holder"]["pid"], lease["holder"]["uid"]) == (caller.pid, 0)
            assert lease["scope"] == f"evm-{lease['id']}.scope"
            assert (await caller.call("ListLeases"))["leases"] == [lease]
            pool = (await caller.call("GetPool"))["pool"]
            assert pool["summary"].endswith("; 1 lease: web (CPUs 6-7, 16 MiB)")
            assert {use["use"] for use in pool["nodes"][0]["cores"]} == {"kept", "host", "pool", "leased"}
            assert pool["nodes"][0]["hugepages"][0] | {"leased": 8, "free": 24} == pool["nodes"][0]["hugepages"][0]
            await until_settled(host)
            host.assert_pool_stands()
            caller.process.kill()
            await until(lambda: not host.record.pool.leases)
            await assert_whole(host, daemon)
        host.assert_untouched()

    with caplog.at_level(logging.INFO):
        run(test)
    events = {LEASE_GRANTED["MESSAGE_ID"]: "granted to", LEASE_ENDED["MESSAGE_ID"]: "its holder ended"}
    told = [(events[r.MESSAGE_ID], r.getMessage()) for r in caplog.records if getattr(r, "MESSAGE_ID", "") in events]
    assert [words for words, _ in told] == ["granted to", "its holder ended"]
    assert all(words in message and "web (CPUs 6-7, 16 MiB)" in message for words, message in told)


@pytest.mark.parametrize("keep", [True, False], ids=["restart", "stop and start"])
def test_a_lease_outlives_the_daemon(keep: bool, host: Host, call_from: Callable[..., Caller]) -> None:
    async def test() -> None:
        daemon = new_daemon(host)
        await daemon.start()
        caller = call_from()
        lease = (await caller.call("Acquire", **ASKED))["lease"]
        await daemon.stop(keep=keep)
        assert caller.process.poll() is None
        host.assert_pool_stands()
        assert host.record.pool.cpus == ({4, 5, 6, 7} if keep else {6, 7})
        async with running(host) as successor:
            assert [entry.id for entry in successor.leases()] == [lease["id"]]
            assert host.record.pool.cpus == {4, 5, 6, 7}
            caller.process.kill()
            await until(lambda: not host.record.pool.leases)
            await assert_whole(host, successor)
        host.assert_untouched()

    run(test)


@pytest.mark.parametrize("broken", [False, True], ids=["good file", "broken file"])
def test_a_holder_that_ends_while_no_daemon_runs(broken: bool, host: Host, call_from: Callable[..., Caller]) -> None:
    async def test() -> None:
        daemon = new_daemon(host)
        await daemon.start()
        caller = call_from()
        await caller.call("Acquire", **ASKED)
        await daemon.stop(keep=True)
        caller.end()
        if broken:
            host.config_path.write_text("memory_mib: much\n")
        async with running(host) as successor:
            assert successor.state == ("degraded" if broken else "ready")
            await assert_whole(host, successor)
        host.assert_untouched()

    run(test)


def test_an_event_while_a_lease_is_made_does_not_end_it(host: Host, call_from: Callable[..., Caller]) -> None:
    """As its own CPUs' events do when they come online."""

    async def test() -> None:
        async with running(host) as daemon:
            loop = asyncio.get_running_loop()
            host.effects.before("cut", lambda: asyncio.run_coroutine_threadsafe(look(daemon), loop).result())
            caller = call_from()
            assert "lease" in await caller.call("Acquire", **ASKED)
            await asyncio.sleep(0)
            assert not daemon._lender._ending
            assert len(daemon.leases()) == 1
            caller.end()
            await until(lambda: not host.record.pool.leases)
        host.assert_untouched()

    async def look(daemon: Daemon) -> None:
        daemon.look()

    run(test)


def test_a_holder_that_ends_while_its_lease_is_released(
    host: Host, call_from: Callable[..., Caller], caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with running(host) as daemon:
            caller, root, next_one = call_from(), call_from(), call_from()
            await asyncio.gather(root.call("GetPool"), next_one.call("GetPool"))
            lease = (await caller.call("Acquire", **ASKED))["lease"]
            daemon._lender._ended(lease["id"])
            _, reply = await asyncio.gather(
                root.call("Release", lease=lease["id"]),
                next_one.call("Acquire", **ASKED | {"cpus": lease["cpus"]} | {"cpu_count": None}),
            )
            assert "lease" in reply or reply["error"] == "InsufficientCpus"
            await until(lambda: not daemon._lender._ending)
            assert len(daemon.leases()) == ("lease" in reply)
            await until_settled(host)
            host.assert_pool_stands()
            next_one.end()
        host.assert_untouched()

    with caplog.at_level(logging.INFO):
        run(test)
    ended = [r for r in caplog.records if getattr(r, "MESSAGE_ID", "") == LEASE_ENDED["MESSAGE_ID"]]
    ids = [re.findall(r"\(([0-9a-f]{16})\)", record.getMessage()) for record in ended]
    assert len(ids) == len({str(id) for id in ids}), "each lease ends once"


def test_what_could_not_be_taken_back_is_tried_again(
    host: Host, call_from: Callable[..., Caller], caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with running(host) as daemon:
            caller = call_from()
            await caller.call("Acquire", **ASKED)
            host.simulation.deadline_task(6)
            caller.process.kill()
            await until(lambda: "held by drumbeat" in caplog.text)
            for _ in range(3):
                daemon.look()
                await until(lambda: not daemon._lender._ending)
            assert len(host.record.pool.leases) == 1
            assert daemon.leases() == ()
            host.simulation.tasks.clear()
            daemon.look()
            await until(lambda: not host.record.pool.leases)
            await assert_whole(host, daemon)
        host.assert_untouched()

    run(test)
    assert caplog.text.count("held by drumbeat") == 1, "it is said once"


def test_a_holder_that_ends_while_the_ledger_cannot_be_written(
    host: Host, call_from: Callable[..., Caller], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def test() -> None:
        async with running(host) as daemon:
            caller = call_from()
            lease = (await caller.call("Acquire", **ASKED))["lease"]
            with monkeypatch.context() as full:
                full.setattr(Ledger, "save", refuse)
                with pytest.raises(KernelRefused, match="nothing was changed"):
                    await daemon.release(lease["id"], peer_of(0))
                assert [lease.id for lease in daemon.leases()] == [lease["id"]]
                caller.process.kill()
                await until(lambda: "cannot write the ledger" in caplog.text and not daemon._lender._ending)
            daemon.look()
            await until(lambda: not host.record.pool.leases)
            await assert_whole(host, daemon)
        host.assert_untouched()

    run(test)


def test_a_caller_that_is_cancelled_gets_no_lease(host: Host, call_from: Callable[..., Caller]) -> None:
    """As by the server when it closes, in every moment of a lease's making."""

    async def test() -> None:
        async with running(host) as daemon:
            caller = call_from()
            await caller.call("GetPool")
            await asyncio.sleep(0.05)
            fds = daemon_fds()
            peer = next(iter(daemon._endpoint._server._clients)).peer  # type: ignore[union-attr]
            for turn in range(30):
                asking = asyncio.ensure_future(daemon.acquire(Request(memory_mib=16, cpu_count=2), peer))
                await asyncio.sleep(turn * 0.0007)
                asking.cancel()
                try:
                    lease, memory = await asking
                except asyncio.CancelledError:
                    pass
                else:
                    os.close(memory)
                    await daemon.release(lease.id, peer)
                await until(lambda: not daemon._lender._lending and not daemon._lender._ending)
                await assert_whole(host, daemon)
                assert daemon_fds() == fds

    host.simulation.kill = lambda pid: host.simulation.scopes.clear()  # type: ignore[method-assign]
    run(test)


def test_a_change_that_is_cancelled_is_finished_before_the_next_begins(host: Host) -> None:
    async def test() -> None:
        async with running(host) as daemon:
            began, ended = threading.Event(), threading.Event()

            def work() -> None:
                began.set()
                time.sleep(0.2)
                ended.set()

            changing = asyncio.ensure_future(daemon.change(work))
            await asyncio.to_thread(began.wait, 10)
            for _ in range(2):
                changing.cancel()
                await asyncio.sleep(0.01)
            assert await daemon.change(ended.is_set)
            with pytest.raises(asyncio.CancelledError):
                await changing

    run(test)
