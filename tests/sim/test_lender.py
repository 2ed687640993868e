"""Lending by the whole daemon over its real socket: the holders are real processes, the kernel is simulated."""

import asyncio
import errno
import gc
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ali_enclaves_allocator import admission
from ali_enclaves_allocator.change.ledger import Ledger
from ali_enclaves_allocator.daemon import Daemon, Paths
from ali_enclaves_allocator.kernel import peers
from ali_enclaves_allocator.kernel.processes import LinuxProcesses
from ali_enclaves_allocator.model.errors import KernelRefused
from ali_enclaves_allocator.model.events import LEASE_ENDED, LEASE_GRANTED
from ali_enclaves_allocator.model.lease import Request
from ali_enclaves_allocator.model.refusals import HolderGone, NoSuchLease, NotPermitted
from ali_enclaves_allocator.server.contract import Peer
from tests.conftest import Boot
from tests.machines import ONE_NODE
from tests.sim import holder
from tests.sim.host import BOOT_ID, Host
from tests.sim.tasks import SimProcesses
from tests.sim.test_daemon import open_fds

ROOT = Path(__file__).parents[2]
CONFIG = {"memory_mib": 64, "cpu_count": 4, "max_enclaves": 2}
ASKED = {"cpu_count": 2, "memory_mib": 16, "online": True}
GROUP_ID = 4242


class RealHolders(SimProcesses):
    """What /proc tells, of holders that are real."""

    holder = LinuxProcesses.holder
    alive = LinuxProcesses.alive


class Caller:
    """A real process with a connection to the daemon."""

    def __init__(self, host: Host, **options: Any) -> None:
        command = [sys.executable, "-m", "tests.sim.holder", "serve", socket_of(host), json.dumps(options)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.pid = self.process.pid

    async def call(self, method: str, forked: bool = False, **parameters: Any) -> Any:
        """Call a method, from a fork of the process where that is said."""

        def exchange() -> Any:
            assert self.process.stdin and self.process.stdout
            self.process.stdin.write(json.dumps([method, parameters, forked]) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
            return json.loads(line) if line else None

        return await asyncio.to_thread(exchange)

    def end(self) -> None:
        """Kill it, and wait for it."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                assert pipe
                pipe.close()


@pytest.fixture
def callers() -> Iterator[list[Caller]]:
    """Whatever process a test starts ends with it."""
    started: list[Caller] = []
    yield started
    for caller in started:
        caller.end()


@pytest.fixture
def host(boot: Boot, callers: list[Caller], monkeypatch: pytest.MonkeyPatch) -> Host:
    host = boot(ONE_NODE)
    host.configure(**CONFIG)
    simulation = host.simulation
    simulation.kernel = replace(simulation.kernel, processes=RealHolders(simulation))

    def kill(pid: int) -> None:
        """End a task of a scope, if it is a process of this test."""
        with suppress(ProcessLookupError):
            if os.getsid(pid) in {caller.pid for caller in callers}:
                os.kill(pid, signal.SIGKILL)
        for name in [name for name, scope in simulation.scopes.items() if pid in scope.pids]:
            del simulation.scopes[name]

    monkeypatch.setattr(simulation, "kill", kill)
    monkeypatch.setattr(admission.grp, "getgrnam", lambda name: SimpleNamespace(gr_gid=GROUP_ID))
    for directory in (host.directory, host.directory.parent):
        directory.chmod(0o711)
    return host


@pytest.fixture
def call_from(host: Host, callers: list[Caller]) -> Callable[..., Caller]:
    def start(**options: Any) -> Caller:
        callers.append(Caller(host, **options))
        return callers[-1]

    return start


def socket_of(host: Host) -> str:
    return str(host.directory / "allocator.sock")


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's coroutine; afterwards no task of it may be left."""

    async def whole() -> None:
        await test()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(whole())


def new_daemon(host: Host) -> Daemon:
    paths = Paths(host.config_path, host.directory)
    return Daemon(paths, host.simulation.kernel, Ledger(host.directory, BOOT_ID))


@asynccontextmanager
async def running(host: Host, *, keep: bool = False) -> AsyncIterator[Daemon]:
    daemon = new_daemon(host)
    await daemon.start()
    try:
        yield daemon
    finally:
        await daemon.stop(keep=keep)


async def until(check: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until a check holds."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not come true"
        await asyncio.sleep(0.01)


def assert_whole(host: Host, daemon: Daemon) -> None:
    """Check that all of the pool is free."""
    host.assert_pool_stands()
    assert host.record.pool.leases == ()
    assert daemon.leases() == ()


def peer_of(uid: int) -> Peer:
    return Peer(1, uid, uid, None)  # type: ignore[arg-type]


def daemon_fds() -> int:
    gc.collect()
    return len(open_fds())


def test_a_lease_ends_when_its_holder_is_killed(
    host: Host, call_from: Callable[..., Caller], caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with running(host) as daemon:
            caller = call_from()
            reply = await caller.call("Acquire", name="web", annotations={"EnclaveCID": 16}, **ASKED)
            lease, (memory,) = reply["lease"], reply["fds"]
            assert memory == [16 << 20, 0, 0o600]
            assert (lease["cpus"], lease["node"], lease["memory_mib"], lease["name"]) == ([6, 7], 0, 16, "web")
            assert (lease["holder"]["pid"], lease["holder"]["uid"]) == (caller.pid, 0)
            assert lease["scope"] == f"evm-{lease['id']}.scope"
            assert (await caller.call("ListLeases"))["leases"] == [lease]
            pool = (await caller.call("GetPool"))["pool"]
            assert pool["summary"].endswith("; 1 lease: web (CPUs 6-7, 16 MiB)")
            assert {use["use"] for use in pool["nodes"][0]["cores"]} == {"kept", "host", "pool", "leased"}
            assert pool["nodes"][0]["hugepages"][0] | {"leased": 8, "free": 24} == pool["nodes"][0]["hugepages"][0]
            host.assert_pool_stands()
            caller.process.kill()
            await until(lambda: not host.record.pool.leases)
            assert_whole(host, daemon)
        host.assert_untouched()

    with caplog.at_level(logging.INFO):
        run(test)
    events = {LEASE_GRANTED["MESSAGE_ID"]: "granted to", LEASE_ENDED["MESSAGE_ID"]: "its holder ended"}
    told = [(events[r.MESSAGE_ID], r.getMessage()) for r in caplog.records if getattr(r, "MESSAGE_ID", "") in events]
    assert [words for words, _ in told] == ["granted to", "its holder ended"]
    assert all(words in message and "web (CPUs 6-7, 16 MiB)" in message for words, message in told)


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
                assert_whole(host, daemon)
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
                assert reply["fds"] == [[16 << 20, 1001, 0o600]]
            else:
                assert (reply["error"], reply["need"]) == ("NotPermitted", "root or group de")
                assert "got uid 1001, wanted root or group de" in reply["message"]
            caller.end()
        host.assert_untouched()

    run(test)


def test_a_connection_inherited_by_a_fork_is_no_new_holder(host: Host, call_from: Callable[..., Caller]) -> None:
    async def test() -> None:
        async with running(host) as daemon:
            caller = call_from()
            reply = await caller.call("Acquire", forked=True, **ASKED)
            assert reply["lease"]["holder"]["pid"] == caller.pid
            await asyncio.sleep(0.1)
            assert [lease.id for lease in daemon.leases()] == [reply["lease"]["id"]], "the fork's end ends nothing"
            caller.process.kill()
            await until(lambda: not host.record.pool.leases)
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
            assert_whole(host, daemon)

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
            assert_whole(host, daemon)

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
            assert_whole(host, daemon)

    run(test)


# Life


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
            assert_whole(host, successor)
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
            assert_whole(host, successor)
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


def test_a_reused_pid_is_not_the_holder(host: Host, call_from: Callable[..., Caller]) -> None:
    async def test() -> None:
        daemon = new_daemon(host)
        await daemon.start()
        caller = call_from()
        await caller.call("Acquire", **ASKED)
        await daemon.stop(keep=True)
        path = host.directory / "ledger.json"
        started = host.record.pool.leases[0].holder.started
        path.write_text(path.read_text().replace(f'"started": {started}', f'"started": {started - 1}'))
        assert host.record.pool.leases[0].holder.started == started - 1
        async with running(host) as successor:
            assert_whole(host, successor)
        host.assert_untouched()

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
            assert_whole(host, daemon)
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
            assert_whole(host, daemon)
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
                assert_whole(host, daemon)
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


def test_a_pid_that_is_reused_while_the_daemon_starts(host: Host, call_from: Callable[..., Caller]) -> None:
    async def test() -> None:
        async with running(host) as daemon:
            caller = call_from()
            lease = (await caller.call("Acquire", **ASKED))["lease"]
            daemon._lender._forget(lease["id"])
            daemon._ledger.record = replace(
                daemon._ledger.record,
                pool=replace(
                    daemon._ledger.record.pool,
                    leases=tuple(
                        replace(entry, holder=replace(entry.holder, started=entry.holder.started - 1))
                        for entry in daemon._ledger.record.pool.leases
                    ),
                ),
            )
            daemon._lender.watch()
            await until(lambda: not daemon._ledger.record.pool.leases)
            assert_whole(host, daemon)

    run(test)


def test_the_daemons_side_keeps_no_descriptor(host: Host, call_from: Callable[..., Caller]) -> None:
    async def test() -> None:
        async with running(host) as daemon:
            watcher = call_from()
            await watcher.call("GetPool")
            before = daemon_fds()
            caller = call_from()
            await caller.call("Acquire", **ASKED)
            assert daemon_fds() <= before + 4, "its pipes, its connection and its pidfd, but not its memory"
            caller.end()
            await until(lambda: not daemon.leases() and daemon_fds() == before)

    before = daemon_fds()
    run(test)
    assert daemon_fds() <= before + 2, "the pipes of the watcher"


def test_a_holder_that_is_gone_before_it_is_answered(host: Host) -> None:
    """The pid that the kernel names may be dead, or somebody else's, when the call is read."""

    async def test() -> None:
        async with running(host) as daemon:
            for _ in range(20):
                child = subprocess.run(
                    [sys.executable, "-c", ORPHAN, socket_of(host), json.dumps(ASKED)], cwd=ROOT, check=True
                )
                assert child.returncode == 0
            await until(lambda: not host.record.pool.leases)
            assert_whole(host, daemon)

    run(test)


ORPHAN = """
import json, socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
call = {"method": "io.ali-enclaves.Allocator.Acquire", "parameters": json.loads(sys.argv[2])}
sock.send(json.dumps(call).encode() + b"\\0")
"""


@pytest.mark.parametrize("oneway", [True, False], ids=["wants no answer", "hangs up"])
def test_a_caller_that_does_not_read_the_answer_has_its_lease_until_it_ends(oneway: bool, host: Host) -> None:
    async def test() -> None:
        async with running(host) as daemon:
            fds = daemon_fds()
            call = json.dumps({"method": f"{holder.NAME}.Acquire", "parameters": ASKED, "oneway": oneway})
            command = [sys.executable, "-c", HUNG_UP, socket_of(host), call, str(oneway)]
            with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE) as caller:
                await until(lambda: len(daemon.leases()) == 1)
                await until(lambda: oneway or not daemon._endpoint._server._clients)  # type: ignore[union-attr]
                daemon.look()
                await asyncio.sleep(0.1)
                assert [lease.holder.pid for lease in daemon.leases()] == [caller.pid]
                assert caller.poll() is None
                caller.kill()
            await until(lambda: not host.record.pool.leases)
            assert_whole(host, daemon)
            await until(lambda: daemon_fds() == fds)
        host.assert_untouched()

    run(test)


HUNG_UP = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
sock.send(sys.argv[2].encode() + b"\\0")
if sys.argv[3] == "False":
    sock.close()
sys.stdin.read()
"""


# Pages that somebody took


@pytest.mark.parametrize("asked", [True, False], ids=["by the next lease", "by the timer"])
def test_pages_taken_while_they_changed_hands_are_held_again(
    asked: bool, host: Host, call_from: Callable[..., Caller]
) -> None:
    async def test() -> None:
        async with running(host) as daemon:
            host.simulation.mounts["bank0"].truncate("hold", 30)
            assert host.simulation.kernel.banks.held() == {"bank0": 30}
            if asked:
                caller = call_from()
                assert "lease" in await caller.call("Acquire", **ASKED)
                caller.process.kill()
                await until(lambda: not host.record.pool.leases)
            else:
                daemon.look()
                assert daemon.state == "degraded"
                await until(lambda: daemon.state == "ready")
            assert_whole(host, daemon)
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
                await until(lambda: not daemon._lender._settling)
            assert [entry.got for entry in daemon.view().drift] == ["30 pages held"]
            reply = await call_from().call("Acquire", **ASKED)
            assert reply["error"] == "PoolNotReady"
            assert reply["reason"] == "bank bank0: 30 pages held, wanted 32 pages held"
            host.simulation.release(0, 2)
            daemon.look()
            await until(lambda: daemon.state == "ready")
            assert thief.used == 32

    run(test)


# Descriptors and lookups of our own


def test_a_caller_is_not_said_to_have_ended_when_we_lack_descriptors(
    host: Host, call_from: Callable[..., Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def test() -> None:
        async with running(host) as daemon:
            caller = call_from()
            for where, name in ((peers, "_pidfd"), (host.simulation.kernel.processes, "holder")):
                with monkeypatch.context() as full:
                    full.setattr(where, name, refuse)
                    reply = await caller.call("Acquire", **ASKED)
                assert reply["error"] == "KernelRefused"
                assert reply["message"] == "cannot watch the caller: Too many open files; nothing was changed"
            assert_whole(host, daemon)
            assert "lease" in await caller.call("Acquire", **ASKED)
            caller.end()

    run(test)


def test_a_lease_whose_holder_cannot_be_watched_yet_does_not_end(
    host: Host, call_from: Callable[..., Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def test() -> None:
        daemon = new_daemon(host)
        await daemon.start()
        caller = call_from()
        lease = (await caller.call("Acquire", **ASKED))["lease"]
        await daemon.stop(keep=True)
        with monkeypatch.context() as full:
            full.setattr(os, "pidfd_open", refuse)
            successor = new_daemon(host)
            await successor.start()
            successor.look()
            assert not successor._lender._ending
        successor.look()
        assert [entry.id for entry in successor.leases()] == [lease["id"]]
        caller.process.kill()
        await until(lambda: not host.record.pool.leases)
        assert_whole(host, successor)
        await successor.stop(keep=False)
        host.assert_untouched()

    run(test)


def test_who_started_after_the_connection_was_accepted_did_not_make_it(host: Host) -> None:
    """A kernel without SO_PEERPIDFD tells only a pid, which may be another's when the call comes."""

    async def test() -> None:
        async with running(host) as daemon:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                peer = Peer(os.getpid(), 0, 0, ours)
                pidfd, holder = daemon._lender._identify(peer)
                os.close(pidfd)
                assert holder.pid == peer.pid
                with pytest.raises(HolderGone):
                    daemon._lender._identify(replace(peer, accepted_ns=0))

    before = daemon_fds()
    run(test)
    assert daemon_fds() <= before


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


def test_a_holder_whose_pid_is_another_s_is_not_moved_into_a_scope(
    host: Host, call_from: Callable[..., Caller]
) -> None:
    """It may end, and its pid be taken, at any moment until it is there."""

    async def test() -> None:
        async with running(host) as daemon:
            alive = RealHolders.alive
            for moment in ("before", "after"):
                caller = call_from()
                await caller.call("GetPool")

                def reuse() -> None:
                    RealHolders.alive = lambda *_: False  # type: ignore[assignment]

                getattr(host.effects, moment)("own" if moment == "before" else "start evm-", reuse)
                reply = await caller.call("Acquire", **ASKED)
                RealHolders.alive = alive  # type: ignore[method-assign]
                host.effects.restart()
                if moment == "before":
                    assert (reply["error"], reply["pid"]) == ("HolderGone", caller.pid)
                    assert reply["message"].endswith("has ended; nothing is lent")
                await until(lambda: not host.record.pool.leases)
                assert_whole(host, daemon)

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
            assert_whole(host, daemon)
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
