"""The holders of the tests: real processes with a connection to the daemon."""

import asyncio
import gc
import json
import subprocess
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from ali_enclaves_allocator.change.leases import is_settled
from ali_enclaves_allocator.daemon import Daemon
from ali_enclaves_allocator.kernel.processes import LinuxProcesses
from ali_enclaves_allocator.server.contract import Peer
from tests.sim.daemons import open_fds, socket_of, until
from tests.sim.host import Host
from tests.sim.tasks import SimProcesses

ROOT = Path(__file__).parents[3]
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


async def assert_whole(host: Host, daemon: Daemon) -> None:
    """Check that all of the pool is free, once the memory of ended leases is held again."""
    await until_settled(host)
    host.assert_pool_stands()
    assert host.record.pool.leases == ()
    assert daemon.leases() == ()


async def until_settled(host: Host) -> None:
    """Wait until every page that no lease has is held."""
    await until(lambda: is_settled(host.record.pool, host.simulation.kernel))


def peer_of(uid: int) -> Peer:
    return Peer(1, uid, uid, None)  # type: ignore[arg-type]


def daemon_fds() -> int:
    """Count the descriptors of this process, the daemon's and the test's."""
    gc.collect()
    return len(open_fds())


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's coroutine; afterwards no task of it may be left."""

    async def whole() -> None:
        await test()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(whole())
