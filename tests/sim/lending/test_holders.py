"""Who the holder is: the process that connected, and nobody who has its pid or its connection."""

import asyncio
import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from ali_enclaves_allocator.kernel import peers
from ali_enclaves_allocator.model.refusals import HolderGone
from ali_enclaves_allocator.server.contract import Peer
from tests.sim import holder
from tests.sim.daemons import new_daemon, running, socket_of, until
from tests.sim.host import Host
from tests.sim.lending.callers import ASKED, ROOT, Caller, RealHolders, assert_whole, daemon_fds, run

ORPHAN = """
import json, socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
call = {"method": "io.ali-enclaves.Allocator.Acquire", "parameters": json.loads(sys.argv[2])}
sock.send(json.dumps(call).encode() + b"\\0")
"""

HUNG_UP = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
sock.send(sys.argv[2].encode() + b"\\0")
if sys.argv[3] == "False":
    sock.close()
sys.stdin.read()
"""


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
            await assert_whole(host, successor)
        host.assert_untouched()

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
            await assert_whole(host, daemon)

    run(test)


def test_the_daemons_side_keeps_no_descriptor(host: Host, call_from: Callable[..., Caller]) -> None:
    async def test() -> None:
        async with running(host) as daemon:
            watcher = call_from()
            await watcher.call("GetPool")
            before = daemon_fds()
            caller = call_from()
            await caller.call("Acquire", **ASKED)
            await until(lambda: not daemon._lender._settler.tasks)
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
            await assert_whole(host, daemon)

    run(test)


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
            await assert_whole(host, daemon)
            await until(lambda: daemon_fds() == fds)
        host.assert_untouched()

    run(test)


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
            await assert_whole(host, daemon)
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
        await assert_whole(host, successor)
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
                await assert_whole(host, daemon)

    run(test)
