"""The second state machine: the whole service on its real socket, with real processes that hold leases.

The first (`machine.py`) lets processes of the allocator die at every effect. This one keeps one alive among many
callers: it runs out of descriptors, its clock jumps, watchers never read, and holders come and go while it is reloaded
or replaced.
"""

import asyncio
import errno
import logging
import os
import resource
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ali_enclaves_allocator.change.leases import is_settled
from ali_enclaves_allocator.daemon import Daemon, Paths
from ali_enclaves_allocator.kernel.processes import LinuxProcesses
from ali_enclaves_allocator.model.errors import AllocatorError
from ali_enclaves_allocator.model.lease import Request, grant
from ali_enclaves_allocator.model.pool import Pool
from enclave_cli.client import CallError, Client
from tests.machines import BOOTABLE
from tests.sim.host import BOOT_ID, Host, SimLedger
from tests.sim.nursery import Nursery
from tests.sim.tasks import SimProcesses

NAME = "io.ali-enclaves.Allocator"
WATCH = b'{"method":"io.ali-enclaves.Allocator.Watch","more":true}\0'
REFUSALS = {
    *(
        "InsufficientCpus",
        "InsufficientMemory",
        "KernelRefused",
        "LeaseLimitReached",
        "LeasesDisabled",
        "NotWholeCores",
    ),
    *("PoolNotReady", "CpuRefused", "HolderGone", "OnlineImpossible"),
}
WATCHERS = 5
PATIENCE_SECONDS = 30.0

real_time = time.time

configs = st.fixed_dictionaries(
    {
        "memory_mib": st.sampled_from([64, 96, 128, 32, 64, 6000]),
        "cpu_pool": st.sampled_from(["4-7", "2-7", "6-7", "2-3", "4-7", "2-7", "1-3"]),
        "max_enclaves": st.sampled_from([1, 2, 4]),
    },
    optional={"offline": st.sampled_from(["always", "leased"]), "hold_memory": st.sampled_from([True, True, False])},
)
requests = st.fixed_dictionaries(
    {
        "cpu_count": st.sampled_from([2, 2, 2, 2, 4, 1]),
        "memory_mib": st.sampled_from([16, 16, 31, 64]),
        "online": st.booleans(),
    }
)
numbers = st.integers(0, 7)


class RealHolders(SimProcesses):
    """What /proc tells, of holders that are real."""

    holder = LinuxProcesses.holder
    alive = LinuxProcesses.alive


class ServiceWalk(RuleBasedStateMachine):
    """One service after the other on one host, from the first start to the last stop."""

    taken: ClassVar[int] = 0
    """The steps of all walks so far."""
    nursery: ClassVar[Nursery]
    """Serves all walks: set by whoever runs them, and closed."""

    @initialize(machine=st.sampled_from(("guest_2x2x2", "one_node")), config=configs)
    def boot(self, machine: str, config: dict[str, Any]) -> None:
        logging.disable(logging.CRITICAL)
        self.directory = Path(tempfile.mkdtemp(dir="/dev/shm"))
        self.host = Host(BOOTABLE[machine], self.directory)
        simulation = self.simulation = self.host.simulation
        simulation.kernel = replace(simulation.kernel, processes=RealHolders(simulation))
        simulation.kill = self._kill  # type: ignore[method-assign]
        self.runner = asyncio.Runner()
        self.watchers: list[socket.socket] = []
        self.daemon: Daemon | None = None
        self.starving = False
        self.held: dict[int, str] = {}
        """The leases that were granted and not ended by anybody, by the pid of the holder."""
        self.host.configure(**config)
        self._run(self._start())

    def teardown(self) -> None:
        if not hasattr(self, "runner"):
            return
        try:
            for watcher in self.watchers:
                watcher.close()
            self._run(self._end())
        finally:
            time.time = real_time
            self.runner.close()
            logging.disable(logging.NOTSET)
            shutil.rmtree(self.directory)

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "runner"):
            ServiceWalk.taken += 1
            self._run(self._check())

    @rule(config=configs)
    def edit_and_reload(self, config: dict[str, Any]) -> None:
        self.host.configure(**config)
        self._run(self._reload())

    @rule()
    def reload_nonsense(self) -> None:
        self.host.config_path.write_text("memory_mib: much\n")
        self._run(self._reload())

    @rule(keep=st.booleans())
    def replace_it(self, keep: bool) -> None:
        """Restart, or stop and start; its leases live on either way."""
        self._run(self._replace(lambda daemon: daemon.stop(keep)))

    @rule()
    def crash(self) -> None:
        """End without any way back, as by kill -9; the kernel closes what it had."""
        self._run(self._replace(lambda daemon: daemon.close()))

    @rule(spare=st.integers(0, 20))
    def replace_it_without_descriptors(self, spare: int) -> None:
        """Restart; what could not start for want of descriptors is started again, as systemd does."""
        self._run(self._starve(self._replace(lambda daemon: daemon.stop(True)), spare))
        if not self.daemon:
            self._run(self._start())

    @rule(asked=requests)
    def acquire(self, asked: dict[str, Any]) -> None:
        self._run(self._acquire_calmly(asked))

    @rule(online=st.booleans())
    def acquire_a_core(self, online: bool) -> None:
        self._run(self._acquire_calmly({"cpu_count": 2, "memory_mib": 16, "online": online}))

    @rule(asked=requests)
    def acquire_with_full_run(self, asked: dict[str, Any]) -> None:
        self.simulation.effects.fail("ledger", errno.ENOSPC)
        self._run(self._acquire(asked))

    @rule(asked=requests, spare=st.integers(0, 6))
    def acquire_without_descriptors(self, asked: dict[str, Any], spare: int) -> None:
        self._run(self._starve(self._acquire(asked), spare))

    @rule(number=numbers)
    def kill(self, number: int) -> None:
        self._end_holder(number)

    @rule(number=numbers)
    def kill_without_descriptors(self, number: int) -> None:
        self._end_holder(number)
        self._run(self._starve(asyncio.sleep(0.05), 0))

    @rule(number=numbers, full=st.booleans())
    def release(self, number: int, full: bool) -> None:
        if full:
            self.simulation.effects.fail("ledger", errno.ENOSPC)
        self._run(self._release(number))
        self.simulation.effects.restart()

    @rule(hours=st.sampled_from([-24 * 365, -1, 1, 24 * 365 * 12]))
    def jump(self, hours: int) -> None:
        """Set the clock."""
        time.time = lambda: real_time() + hours * 3600

    @rule()
    def watch(self) -> None:
        """Watch, and never read."""
        if len(self.watchers) == WATCHERS or not self.daemon:
            return
        watcher = socket.socket(socket.AF_UNIX)
        watcher.connect(self._path)
        watcher.sendall(WATCH)
        self.watchers.append(watcher)

    @rule(asked=requests, number=numbers)
    def acquire_from_what_others_took(self, asked: dict[str, Any], number: int) -> None:
        """Let somebody bring a CPU of the pool online: nothing is lent until it is mended."""
        if self.daemon and (cpus := sorted(self._pool().offline_cpus)):
            self._run(self._acquire_amid_drift(asked, cpus[number % len(cpus)]))

    # The service

    def _run(self, work: Coroutine[Any, Any, Any]) -> None:
        self.runner.run(work)

    async def _start(self) -> None:
        """Start a service; where it refuses to, there is none."""
        ledger = SimLedger(self.directory, BOOT_ID, self.simulation.effects)
        daemon = Daemon(Paths(self.host.config_path, self.directory), self.simulation.kernel, ledger)
        try:
            await daemon.start()
        except Exception as error:
            assert isinstance(error, AllocatorError) or self.starving, "a traceback"
            await daemon.close()
            self.host.assert_pool_stands()
            return
        self.daemon = daemon

    async def _replace(self, end: Callable[[Daemon], Coroutine[Any, Any, None]]) -> None:
        if self.daemon:
            await end(self.daemon)
            self.daemon = None
        await self._start()

    async def _reload(self) -> None:
        if self.daemon:
            before = self._pool()
            if "error" in await self._call("Reload", {}):
                pool = self._pool()
                assert (pool.cores, pool.shares, pool.config) == (before.cores, before.shares, before.config)

    async def _end(self) -> None:
        """Kill all holders, and stop: the machine is as it was, and nothing of the service is left."""
        for lease in self._leases():
            self.nursery.kill(lease.holder.pid)
        if not self.daemon and self._pool() != Pool():
            await self._start()
        if self.daemon:
            await self._settled()
            await self.daemon.stop(keep=False)
        self.host.assert_untouched()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert not [name for name in open_files() if str(self.directory) in name], "descriptors are left"

    # Its callers

    async def _acquire_calmly(self, asked: dict[str, Any]) -> None:
        """Ask for a lease while nothing is in the way: what the pool has, is granted."""
        try:
            grant(Request(**asked), self._pool())
        except AllocatorError:
            has_it = False
        else:
            has_it = self.daemon is not None
        assert await self._acquire(asked) == has_it

    async def _acquire(self, asked: dict[str, Any]) -> bool:
        """Ask for a lease, and see that the answer is true. Return whether it was granted."""
        if not self.daemon:
            return False
        reply = await asyncio.to_thread(self.nursery.call, self._path, "Acquire", asked)
        self.simulation.effects.restart()
        if "error" in reply:
            assert reply["error"] in REFUSALS, reply
            self.nursery.kill(reply["pid"])
            return False
        lease = next(lease for lease in self._leases() if lease.id == reply["lease"]["id"])
        assert lease.granted
        assert lease.holder.pid == reply["pid"]
        assert reply["fds"] == [[lease.memory_mib << 20, 0, 0, 0o660]]
        assert reply["lease"]["since"] <= time.time()
        assert (
            lease.cpus <= self.simulation.confined() & self.simulation.online
            if lease.online
            else not (lease.cpus & self.simulation.online)
        )
        self.held[lease.holder.pid] = lease.id
        return True

    async def _acquire_amid_drift(self, asked: dict[str, Any], cpu: int) -> None:
        assert self.daemon
        self.simulation.set_online(cpu, True)
        self.daemon.look()
        reply = await asyncio.to_thread(self.nursery.call, self._path, "Acquire", asked)
        assert reply["error"] in REFUSALS, reply
        self.nursery.kill(reply["pid"])
        self.simulation.set_online(cpu, False)
        self.daemon.look()

    async def _release(self, number: int) -> None:
        if self.daemon and self._leases():
            id = self._lease(number).id
            self.held = {pid: lease for pid, lease in self.held.items() if lease != id}
            reply = await self._call("Release", {"lease": id})
            assert "error" in reply or id not in {lease.id for lease in self._leases()}

    async def _starve(self, work: Coroutine[Any, Any, Any], spare: int) -> None:
        """Do something while there are only so few descriptors, and then again enough."""
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        task = asyncio.ensure_future(work)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(open_files()) + spare, limits[1]))
        self.starving = True
        try:
            await asyncio.sleep(0.05)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        await task
        self.starving = False

    async def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        def call() -> dict[str, Any]:
            with Client(self._path, timeout=PATIENCE_SECONDS) as client:
                try:
                    return client.call(f"{NAME}.{method}", parameters)
                except CallError as error:
                    return {"error": error.name}

        return await asyncio.to_thread(call)

    # The truth

    async def _check(self) -> None:
        """Check that all ended leases are gone, and that what the service says is what the machine shows."""
        assert not self.simulation.lost
        if not self.daemon:
            return
        await self._settled()
        pool = (await self._call("GetPool", {}))["pool"]
        leases = (await self._call("ListLeases", {}))["leases"]
        assert {lease["id"] for lease in leases} == {lease.id for lease in self._leases()}
        assert set(self.held.values()) <= {lease["id"] for lease in leases}, "a lease ended by itself"
        assert all(lease["holder"]["pid"] in self.nursery.pids for lease in leases)
        assert set(pool["cpus"]) == self._pool().cpus
        assert pool["leases"] == len(leases)
        assert pool["drift"] == []
        self.host.assert_pool_stands()

    async def _settled(self) -> None:
        """Wait until the lease of every holder that was killed has ended, and its memory is held again."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while any(
            lease.holder.pid not in self.nursery.pids or not lease.granted for lease in self._leases()
        ) or not is_settled(self._pool(), self.simulation.kernel):
            assert time.monotonic() < deadline, "a lease does not end"
            await asyncio.sleep(0.005)
            if self.daemon:
                self.daemon.look()

    def _kill(self, pid: int) -> None:
        """End a task of a scope; the scope ends with its last."""
        self.nursery.kill(pid)
        for name in [name for name, scope in self.simulation.scopes.items() if pid in scope.pids]:
            del self.simulation.scopes[name]

    def _end_holder(self, number: int) -> None:
        if self._leases():
            pid = self._lease(number).holder.pid
            self.held.pop(pid, None)
            self.nursery.kill(pid)

    def _pool(self) -> Any:
        return self.host.record.pool

    def _leases(self) -> Any:
        return self._pool().leases

    def _lease(self, number: int) -> Any:
        return self._leases()[number % len(self._leases())]

    @property
    def _path(self) -> str:
        return str(self.directory / "allocator.sock")


def open_files() -> list[str]:
    """Return what the descriptors of this process are open on."""
    names = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:  # that of the listing itself
            continue
    return names
