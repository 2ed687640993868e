"""What a lease leaves over, and what it had: cleared and held again while others have their turns."""

import asyncio
import errno
import os
import threading
import time
from collections.abc import Callable, Mapping

import pytest

from ali_enclaves_allocator import settler
from ali_enclaves_allocator.model.pool import Bank
from tests.sim.banks import SimBanks
from tests.sim.daemons import running, until
from tests.sim.host import Host
from tests.sim.lending.callers import ASKED, Caller, assert_whole, run, until_settled


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
