"""How a lease ends, whatever happens meanwhile."""

import asyncio
import errno
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping

import pytest

from ali_enclaves_allocator import settler
from ali_enclaves_allocator.change.ledger import Ledger
from ali_enclaves_allocator.daemon import Daemon
from ali_enclaves_allocator.model.errors import KernelRefused
from ali_enclaves_allocator.model.events import LEASE_ENDED, LEASE_GRANTED
from ali_enclaves_allocator.model.lease import Request
from ali_enclaves_allocator.model.pool import Bank
from tests.sim.banks import SimBanks
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


@pytest.mark.parametrize("releasing", [False, True], ids=["Acquire", "Release"])
def test_nobody_waits_until_memory_is_clear_but_who_asks_next(
    releasing: bool, host: Host, call_from: Callable[..., Caller]
) -> None:
    """To clear pages takes long: what a lease leaves over, and what it had."""

    async def test() -> None:
        async with running(host) as daemon:
            first, root, next_one = call_from(), call_from(), call_from()
            cleared = threading.Event()
            if releasing:
                lease = (await first.call("Acquire", **ASKED))["lease"]
                await until_settled(host)
            host.effects.before("cut bank", lambda: None if cleared.wait(10) else pytest.fail("it was waited for"))
            if releasing:
                assert await root.call("Release", lease=lease["id"]) == {"fds": []}
            else:
                assert "lease" in await first.call("Acquire", **ASKED)
            assert (await root.call("GetPool"))["pool"]["leases"] == 1 - releasing
            asking = asyncio.ensure_future(next_one.call("Acquire", **ASKED))
            await asyncio.sleep(0.05)
            assert not asking.done()
            cleared.set()
            assert "lease" in await asking
            first.end()
            next_one.end()
            await until(lambda: not host.record.pool.leases)
            await assert_whole(host, daemon)
        host.assert_untouched()

    run(test)


def test_a_lease_is_answered_where_its_bank_cannot_be_looked_at(
    host: Host, call_from: Callable[..., Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for want of descriptors: that its rest is not held yet is no reason to fail it, or its end."""
    loop_thread, settled = threading.current_thread(), SimBanks.settled

    def blind(banks: SimBanks, bank: Bank, leases: Mapping[str, int]) -> bool:
        if threading.current_thread() is loop_thread:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return settled(banks, bank, leases)

    async def test() -> None:
        async with running(host) as daemon:
            caller, root = call_from(), call_from()
            with monkeypatch.context() as patched:
                patched.setattr(SimBanks, "settled", blind)
                lease = (await caller.call("Acquire", **ASKED))["lease"]
                assert await root.call("Release", lease=lease["id"]) == {"fds": []}
            daemon.look()
            await assert_whole(host, daemon)
        host.assert_untouched()

    run(test)


def test_a_look_need_not_wait_until_all_is_clear(
    host: Host, call_from: Callable[..., Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for its turn is not only changes."""
    turns, looks, ended = list[int](), list[int](), threading.Event()

    def settle(*_: object) -> bool:
        time.sleep(0.005)
        turns.append(len(turns))
        return ended.is_set()

    async def test() -> None:
        async with running(host) as daemon:
            caller, root, retry = call_from(), call_from(), daemon._lender.retry
            with monkeypatch.context() as patched:
                patched.setattr(settler, "settle", settle)
                lease = (await caller.call("Acquire", **ASKED))["lease"]
                patched.setattr(daemon._lender, "retry", lambda: (looks.append(len(turns)), retry()))
                asked = len(turns)
                daemon.look()
                await until(lambda: bool(looks))
                assert looks[0] <= asked + 5
                ended.set()
                await until(lambda: not daemon._lender._settler.tasks)
            assert await root.call("Release", lease=lease["id"]) == {"fds": []}
            await assert_whole(host, daemon)

    run(test)


def test_a_lease_that_fails_leaves_its_memory_to_be_cleared_in_turns(
    host: Host, call_from: Callable[..., Caller]
) -> None:
    async def test() -> None:
        async with running(host) as daemon:
            caller, settling = call_from(), list[bool]()
            host.effects.before("cut bank", lambda: settling.append(bool(daemon._lender._settler.tasks)))
            host.effects.fail("start evm", errno.EIO)
            assert "nothing is lent" in (await caller.call("Acquire", **ASKED))["message"]
            await assert_whole(host, daemon)
            assert settling
            assert all(settling)
        host.assert_untouched()

    run(test)


def test_clearing_lets_others_in_between(host: Host, call_from: Callable[..., Caller]) -> None:
    async def test() -> None:
        async with running(host) as daemon:
            caller, root = call_from(), call_from()
            await root.call("GetPool")
            asked = threading.Event()
            host.effects.before("cut bank", lambda: None if asked.wait(10) else pytest.fail("nobody asked"))
            lease = (await caller.call("Acquire", **ASKED))["lease"]
            releasing = asyncio.ensure_future(root.call("Release", lease=lease["id"]))
            await until(lambda: bool(daemon._changing._waiters))
            asked.set()
            assert await releasing == {"fds": []}
            await assert_whole(host, daemon)
            began, *later = [at for at, name in enumerate(host.effects.names) if name.startswith("cut bank")]
            assert began < host.effects.names.index(f"stop evm-{lease['id']}.scope") < later[0]
        host.assert_untouched()

    run(test)


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


@pytest.mark.parametrize("asked", [True, False], ids=["by the next lease", "by the timer"])
def test_pages_taken_while_they_changed_hands_are_held_again(
    asked: bool, host: Host, call_from: Callable[..., Caller]
) -> None:
    async def test() -> None:
        async with running(host) as daemon:
            host.simulation.mounts["bank0"].truncate("hold", 30)
            assert host.simulation.kernel.banks.held({}) == {"bank0": 30}
            if asked:
                caller = call_from()
                assert "lease" in await caller.call("Acquire", **ASKED)
                caller.process.kill()
                await until(lambda: not host.record.pool.leases)
            else:
                daemon.look()
                assert daemon.state == "degraded"
                await until(lambda: daemon.state == "ready")
            await assert_whole(host, daemon)
        host.assert_untouched()

    run(test)


def test_pages_that_do_not_come_back_are_drift_and_asked_for_at_each_look(
    host: Host, call_from: Callable[..., Caller]
) -> None:
    async def test() -> None:
        async with running(host) as daemon:
            thief = host.simulation.mounts["bank0"]
            thief.truncate("hold", 30)
            thief.promised, host.simulation.pages[2048].reserved = 0, 0
            assert host.simulation.use(0, 2) == 2
            for _ in range(3):
                daemon.look()
                await until(lambda: not daemon._lender._settler.tasks)
            assert [entry.got for entry in daemon.view().drift] == ["30 pages held"]
            reply = await call_from().call("Acquire", **ASKED)
            assert reply["error"] == "PoolNotReady"
            assert reply["reason"] == "bank bank0: 30 pages held, wanted 32 pages held"
            host.simulation.release(0, 2)
            daemon.look()
            await until(lambda: daemon.state == "ready")
            assert thief.used == 32

    run(test)
