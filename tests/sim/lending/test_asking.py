"""What may be asked for, by whom, and what is refused."""

import asyncio
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from ali_enclaves_allocator import admission
from ali_enclaves_allocator.daemon import Daemon
from ali_enclaves_allocator.model.events import LEASE_GRANTED
from ali_enclaves_allocator.model.refusals import NoSuchLease, NotPermitted
from tests.sim import holder
from tests.sim.daemons import new_daemon, running, socket_of, until
from tests.sim.host import Host
from tests.sim.lending.callers import ASKED, CONFIG, GROUP_ID, ROOT, Caller, assert_whole, daemon_fds, peer_of, run


def test_who_may_release(host: Host, call_from: Callable[..., Caller]) -> None:
    async def test() -> None:
        async with running(host) as daemon:
            caller = call_from(uid=1001, gid=1001, groups=[5, GROUP_ID])
            for uid in (1001, 0):
                lease = (await caller.call("Acquire", **ASKED))["lease"]
                with pytest.raises(NotPermitted) as refused:
                    await daemon.release(lease["id"], peer_of(1002))
                assert refused.value.what() == (
                    f"cannot release {lease['id']} (CPUs 6-7, 16 MiB): got uid 1002, wanted root or uid 1001"
                )
                assert lease["holder"]["uid"] == 1001
                await daemon.release(lease["id"], peer_of(uid))
                await assert_whole(host, daemon)
                await asyncio.to_thread(caller.process.wait, 10)
                with pytest.raises(NoSuchLease):
                    await daemon.release(lease["id"], peer_of(uid))
                caller = call_from(uid=1001, gid=1001, groups=[GROUP_ID])
            other = call_from()
            lease = (await caller.call("Acquire", **ASKED))["lease"]
            assert await other.call("Release", lease=lease["id"]) == {"fds": []}
            assert (await other.call("Release", lease=lease["id"]))["error"] == "NoSuchLease"
        host.assert_untouched()

    run(test)


@pytest.mark.parametrize(
    ("gid", "groups", "may"),
    [
        (GROUP_ID, [], True),
        (1001, [GROUP_ID], True),
        (1001, [*range(5000, 5300), GROUP_ID], True),
        (1001, [], False),
        (1001, [5, 6], False),
    ],
    ids=["primary", "supplementary", "one of many", "none", "others"],
)
def test_who_may_acquire(gid: int, groups: list[int], may: bool, host: Host, call_from: Callable[..., Caller]) -> None:
    async def test() -> None:
        async with running(host):
            caller = call_from(uid=1001, gid=gid, groups=groups)
            reply = await caller.call("Acquire", **ASKED)
            if may:
                assert reply["fds"] == [[16 << 20, 0, gid, 0o660]], "root owns it"
            else:
                assert (reply["error"], reply["need"]) == ("NotPermitted", "root or group de")
                assert "got uid 1001, wanted root or group de" in reply["message"]
            caller.end()
        host.assert_untouched()

    run(test)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"cpus": [6, 7]}, {"error": "InvalidRequest", "parameter": "cpu_count"}),
        ({"cpu_count": None}, {"error": "InvalidRequest", "parameter": "cpu_count"}),
        ({"annotations": {"a": "x" * 1017}}, {"error": "InvalidRequest", "parameter": "annotations"}),
        ({"annotations": {"ü": "ü" * 509}}, {"error": "InvalidRequest", "parameter": "annotations"}),
        ({"name": "a b"}, {"error": "org.varlink.service.InvalidParameter", "parameter": "name"}),
        ({"name": ""}, {"error": "org.varlink.service.InvalidParameter", "parameter": "name"}),
        ({"name": "x" * 65}, {"error": "org.varlink.service.InvalidParameter", "parameter": "name"}),
        ({"memory_mib": 0}, {"error": "org.varlink.service.InvalidParameter", "parameter": "memory_mib"}),
        ({"cpus": []}, {"error": "org.varlink.service.InvalidParameter", "parameter": "cpus"}),
        ({"annotations": []}, {"error": "org.varlink.service.InvalidParameter", "parameter": "annotations"}),
        ({"online": None}, {"error": "org.varlink.service.InvalidParameter", "parameter": "online"}),
        ({"cpu_count": 3}, {"error": "NotWholeCores", "requested": 3}),
        ({"cpu_count": 6}, {"error": "InsufficientCpus", "requested": 6}),
        ({"node": 7}, {"error": "InsufficientCpus", "requested": 2}),
        ({"memory_mib": 65}, {"error": "InsufficientMemory", "requested_mib": 65}),
        ({"memory_mib": 16777216}, {"error": "InsufficientMemory", "requested_mib": 16777216}),
    ],
    ids=str,
)
def test_what_cannot_be_asked(
    asked: dict[str, Any], told: dict[str, Any], host: Host, call_from: Callable[..., Caller]
) -> None:
    async def test() -> None:
        async with running(host) as daemon:
            before = host.effects.names[:]
            reply = await call_from().call("Acquire", **ASKED | asked)
            assert reply | told == reply
            assert host.effects.names == before
            await assert_whole(host, daemon)

    run(test)


def test_annotations_of_the_full_length_come_back_after_a_restart(host: Host, call_from: Callable[..., Caller]) -> None:
    given = {"a": "ü" * 400, "n": [1.5, -0.0, 1e300, 10**30, None, True, {"": "\n\u2028"}]}

    async def test() -> None:
        daemon = new_daemon(host)
        await daemon.start()
        caller = call_from()
        await caller.call("Acquire", annotations=given, **ASKED)
        await daemon.stop(keep=True)
        async with running(host):
            assert (await call_from().call("ListLeases"))["leases"][0]["annotations"] == given

    run(test)


@pytest.mark.parametrize(
    "text",
    ["1e400", "-1e999", "NaN", '"\\ud800"', *("[" * depth + "]" * depth for depth in (300, 198, 197, 193))],
    ids=lambda text: f"{text[:8]}, {len(text)}",
)
def test_annotations_that_no_ledger_could_hold_break_nothing(text: str, host: Host) -> None:
    """The next start must be able to read what this one wrote."""

    async def test() -> None:
        async with running(host, keep=True):
            reader, writer = await asyncio.open_unix_connection(socket_of(host))
            call = {"method": f"{holder.NAME}.Acquire", "parameters": ASKED | {"annotations": {"a": "@"}}}
            writer.write(json.dumps(call).replace('"@"', text).encode() + b"\0")
            assert b'"lease"' not in await reader.read(65536)
            writer.close()
        async with running(host) as daemon:
            await assert_whole(host, daemon)

    run(test)


def test_nothing_is_lent_while_the_pool_is_not_ready(host: Host, call_from: Callable[..., Caller]) -> None:
    async def test() -> None:
        async with running(host) as daemon:
            caller = call_from()
            for phase in ("starting", "stopping"):
                daemon._phase = phase  # type: ignore[assignment]
                reply = await caller.call("Acquire", **ASKED)
                assert (reply["error"], reply["state"]) == ("PoolNotReady", phase)
            daemon._phase = "ready"
            host.simulation.online.add(6)
            reply = await caller.call("Acquire", **ASKED)
            assert (reply["error"], reply["state"]) == ("PoolNotReady", "degraded")
            assert "CPU 6: online: the host runs on them, wanted offline" in reply["reason"]
            await daemon.reload()
            assert "lease" in await caller.call("Acquire", **ASKED)
            caller.end()
        host.assert_untouched()

    run(test)


def test_watch_tells_leases_as_they_come_and_go(host: Host, call_from: Callable[..., Caller]) -> None:
    async def test() -> None:
        daemon = new_daemon(host)
        await daemon.start()
        reader, writer = await asyncio.open_unix_connection(socket_of(host), limit=1 << 20)
        writer.write(json.dumps({"method": f"{holder.NAME}.Watch", "more": True}).encode() + b"\0")

        async def told(count: int) -> list[str]:
            while True:
                reply = json.loads((await asyncio.wait_for(reader.readuntil(b"\0"), 10))[:-1])["parameters"]
                if len(reply["leases"]) == reply["pool"]["leases"] == count:
                    return [lease["name"] for lease in reply["leases"]]

        assert await told(0) == []
        one, two = call_from(), call_from()
        await one.call("Acquire", name="one", **ASKED)
        assert await told(1) == ["one"]
        await two.call("Acquire", name="two", **ASKED)
        assert await told(2) == ["one", "two"]
        one.process.kill()
        assert await told(1) == ["two"]
        two.process.kill()
        assert await told(0) == []
        writer.close()
        await daemon.stop(keep=False)

    run(test)


def test_of_two_at_once_for_the_last_place_one_gets_it(host: Host, call_from: Callable[..., Caller]) -> None:
    async def test() -> None:
        host.configure(**CONFIG | {"max_enclaves": 1})
        async with running(host):
            callers = [call_from() for _ in range(3)]
            replies = await asyncio.gather(*(caller.call("Acquire", **ASKED) for caller in callers))
            assert sorted(reply.get("error", "") for reply in replies) == ["", *["LeaseLimitReached"] * 2]
            refused = next(reply for reply in replies if reply.get("error"))
            assert refused["limit"] == 1
            assert "cannot lend: 1 of at most 1 enclaves exist (max_enclaves): " in refused["message"]
            for caller in callers:
                caller.end()
        host.assert_untouched()

    run(test)


def test_one_process_may_hold_two_leases(host: Host, call_from: Callable[..., Caller]) -> None:
    async def test() -> None:
        async with running(host) as daemon:
            caller = call_from()
            one, two = [(await caller.call("Acquire", **ASKED))["lease"] for _ in range(2)]
            assert not set(one["cpus"]) & set(two["cpus"])
            caller.process.kill()
            await until(lambda: not host.record.pool.leases)
            await assert_whole(host, daemon)

    run(test)


def test_a_slow_directory_service_keeps_only_those_waiting_who_need_it(
    host: Host, call_from: Callable[..., Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def slow(_: str) -> SimpleNamespace:
        asked.set()
        assert go_on.wait(10)
        return SimpleNamespace(gr_gid=GROUP_ID)

    async def test() -> None:
        monkeypatch.setattr(admission.grp, "getgrnam", slow)
        async with running(host):
            member, root = call_from(uid=1001, gid=1001, groups=[GROUP_ID]), call_from()
            waiting = asyncio.ensure_future(member.call("Acquire", **ASKED))
            await asyncio.to_thread(asked.wait, 10)
            assert "lease" in await root.call("Acquire", **ASKED)
            assert not waiting.done()
            go_on.set()
            assert "lease" in await waiting
            for caller in (member, root):
                caller.end()
        host.assert_untouched()

    run(test)


def test_only_what_was_granted_is_counted(host: Host, call_from: Callable[..., Caller]) -> None:
    """A lease that is being made, or taken back, is none that ListLeases knows."""
    seen: list[tuple[int, str]] = []

    def note(daemon: Daemon) -> None:
        daemon._view = None
        view = daemon.view()
        seen.append((view.leases, view.summary.rpartition("; ")[2]))

    async def test() -> None:
        async with running(host) as daemon:
            host.effects.before("own", lambda: note(daemon))
            caller = call_from()
            await caller.call("Acquire", name="web", **ASKED)
            note(daemon)
            host.effects.before("stop evm-", lambda: note(daemon))
            caller.process.kill()
            await until(lambda: not host.record.pool.leases)

    run(test)
    assert seen == [(0, "no leases"), (1, "1 lease: web (CPUs 6-7, 16 MiB)"), (0, "no leases")]


def test_a_thousand_leases_by_eight_clients_leave_nothing(
    host: Host, callers: list[Caller], caplog: pytest.LogCaptureFixture
) -> None:
    cycles, clients = 125, 8
    broken: list[str] = []

    def watch() -> None:
        scopes = list(host.simulation.scopes.values())
        lent = [cpu for scope in scopes for cpu in scope.cpus]
        if len(lent) != len(set(lent)) or set(lent) & host.simulation.hosts_cpus():
            broken.append(str(scopes))

    async def farm(seed: int) -> dict[str, int]:
        options = json.dumps({"cycles": cycles, "seed": seed})
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.sim.holder", "cycle", socket_of(host), options),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        callers.append(SimpleNamespace(pid=process.pid, end=lambda: None))  # type: ignore[arg-type]
        output, _ = await asyncio.wait_for(process.communicate(), 100)
        ends: dict[str, int] = json.loads(output)
        return ends

    async def test() -> None:
        host.configure(memory_mib=64, cpu_count=6, max_enclaves=3)
        async with running(host) as daemon:
            fds = daemon_fds()
            host.effects.watch = watch
            ends = await asyncio.gather(*(farm(seed) for seed in range(clients)))
            await until(lambda: not host.record.pool.leases)
            await until(lambda: not daemon._endpoint._server._clients)  # type: ignore[union-attr]
            await assert_whole(host, daemon)
            assert daemon_fds() == fds
            assert not (daemon._lender._pidfds or daemon._lender._ending or daemon._lender._lending)
            total = {name: sum(end.get(name, 0) for end in ends) for end in ends for name in end}
            assert sum(total.values()) == cycles * clients
            assert total.keys() == {"exited", "killed"}, total
            granted = [r for r in caplog.records if getattr(r, "MESSAGE_ID", "") == LEASE_GRANTED["MESSAGE_ID"]]
            assert len(granted) > cycles * clients / 2
        host.assert_untouched()

    with caplog.at_level(logging.INFO):
        run(test)
    assert not broken
    assert not host.simulation.spilled
