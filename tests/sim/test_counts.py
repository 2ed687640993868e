"""What the allocator does to the machine, counted: the guard against growing slower, which no clock can be.

A count that must change is changed here, by whoever means it. Times are `make bench`'s.
"""

import asyncio
import gc
import selectors
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ali_enclaves_allocator import cli, daemon, journal, serve, unit
from ali_enclaves_allocator.daemon import Daemon, Paths
from ali_enclaves_allocator.server.interface import NAME
from ali_enclaves_allocator.server.varlink import Server
from enclave_cli.client import Client
from tests.conftest import Boot
from tests.machines import FOUR_NODES, GUEST_2X2X2, Machine
from tests.sim.daemons import running, socket_of
from tests.sim.host import BOOT_ID, SimLedger
from tests.sim.kernel import SimFiles

ROOT = Path(__file__).parents[2]
BEFORE_READY = Path(__file__).with_name("before_ready.txt")

SMALL = {"memory_mib": 64, "cpu_count": 2}
LARGE = {"memory_mib": 128, "cpu_count": 8, "max_enclaves": 4}

CALLS = 20


class Reads(Counter[str]):
    """The files and directories of the simulated sysfs that are read, each as often as it was."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        for name in ("read", "list"):
            monkeypatch.setattr(SimFiles, name, self._counting(getattr(SimFiles, name)))
        self._inside = False

    def _counting(self, real: Callable[[SimFiles, str], Any]) -> Callable[[SimFiles, str], Any]:
        def counted(files: SimFiles, path: str) -> Any:
            if self._inside:  # the simulation looks at itself
                return real(files, path)
            self[path] += 1
            self._inside = True
            try:
                return real(files, path)
            finally:
                self._inside = False

        return counted


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


def kinds(effects: list[str]) -> dict[str, int]:
    """Count effects by their first word; of the ledger by its phase too."""
    return dict(Counter(name if name.startswith("ledger") else name.split()[0] for name in effects))


def test_a_start_writes_each_setting_once(boot: Boot) -> None:
    host = boot(GUEST_2X2X2)
    host.configure(**SMALL)
    host.start()
    # the simulation holds in two steps what the real door allocates in one call
    assert kinds(host.done) == {"ledger taking": 1, "write": 3, "mount": 1, "hold": 2, "ledger idle": 1}


def test_a_start_over_nodes_adds_its_cpus_and_nodes_only(boot: Boot) -> None:
    host = boot(FOUR_NODES)
    host.configure(**LARGE)
    host.start()
    nodes = len(host.record.pool.shares)
    writes = LARGE["cpu_count"] + nodes
    assert kinds(host.done) == {
        "ledger taking": 1,
        "write": writes,
        "mount": nodes,
        "hold": 2 * nodes,
        "ledger idle": 1,
    }


@pytest.mark.parametrize("keys", [SMALL, LARGE | {"cpu_count": 6}, SMALL | {"offline": "leased"}])
def test_a_restart_without_a_change_does_nothing(boot: Boot, keys: dict[str, Any]) -> None:
    host = boot(GUEST_2X2X2)
    host.configure(**keys)
    host.start()
    host.start()
    assert host.done == []


def test_a_stop_writes_each_setting_once(boot: Boot) -> None:
    host = boot(GUEST_2X2X2)
    host.configure(**SMALL)
    host.start()
    host.give_back()
    assert kinds(host.done) == {"ledger idle": 1, "write": 3, "unmount": 1, "ledger giving": 1}
    host.assert_untouched()


def test_a_reload_without_a_change_does_nothing(boot: Boot) -> None:
    host = boot(GUEST_2X2X2)
    host.configure(**SMALL)

    async def test() -> None:
        ledger = SimLedger(host.directory, BOOT_ID, host.effects)
        service = Daemon(Paths(host.config_path, host.directory), host.simulation.kernel, ledger)
        await service.start()
        before = len(host.effects.names)
        await service.reload()
        assert host.effects.names[before:] == []
        await service.stop(keep=False)

    asyncio.run(test())


@pytest.mark.parametrize(
    ("online", "lent", "taken_back"),
    [
        (
            False,
            {"ledger idle": 2, "rename": 1, "own": 1, "start": 1},
            {"ledger idle": 2, "stop": 1, "cut": 2, "hold": 2, "unlink": 1},
        ),
        (
            True,
            {"ledger idle": 2, "rename": 1, "own": 1, "start": 1, "confine": 1, "write": 2},
            # the last CPU of a partition goes offline once the partition is open: the kernel refuses it first
            {"ledger idle": 2, "stop": 1, "cut": 2, "hold": 2, "unlink": 1, "open": 1, "write": 3},
        ),
    ],
)
def test_a_lease(boot: Boot, online: bool, lent: dict[str, int], taken_back: dict[str, int]) -> None:
    host = boot(GUEST_2X2X2)
    host.configure(**SMALL)
    host.start()
    lease = host.lend(host.simulation.spawn(), cpu_count=2, memory_mib=16, online=online)
    assert kinds(host.done) == lent
    host.take_back(lease)
    assert kinds(host.done) == taken_back


@pytest.mark.parametrize(("machine", "wanted"), [(GUEST_2X2X2, 137), (FOUR_NODES, 229)])
def test_what_a_start_reads(
    boot: Boot, reads: Reads, machine: Machine, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = boot(machine)
    host.configure(**SMALL)
    at_ready: list[Counter[str]] = []
    monkeypatch.setattr(unit, "notify", lambda *told: at_ready.append(Counter(reads)) if "READY=1" in told else None)

    async def test() -> None:
        async with running(host):
            pass

    reads.clear()
    asyncio.run(test())
    [counted] = at_ready
    assert counted.total() == wanted, counted.most_common()


def test_modules_before_ready() -> None:
    command = [sys.executable, "-m", "tests.sim.ready"]
    imported = set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split())
    allowed = set(BEFORE_READY.read_text().split())
    written = f"python -m tests.sim.ready > {BEFORE_READY.relative_to(ROOT)}"
    assert not imported - allowed, f"{sorted(imported - allowed)} delay every start; if that is meant: {written}"
    assert not allowed - imported, f"{sorted(allowed - imported)} are imported no longer: {written}"


def test_garbage_is_not_looked_for_in_what_was_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, bool]] = []

    async def run(_config: Path, _directory: Path) -> int:
        seen.append((gc.isenabled(), gc.get_freeze_count() > 0))
        return 0

    monkeypatch.setattr(journal, "start_logging", lambda _name: None)
    monkeypatch.setattr(serve, "run", run)
    gc.unfreeze()
    assert cli.main(["serve"]) == 0
    gc.unfreeze()
    assert seen == [(True, True)]


class CountingSocket(socket.socket):
    """A connection that counts what the server asks the kernel for."""

    calls: ClassVar[Counter[str]] = Counter()

    def recv(self, *arguments: Any) -> bytes:
        self.calls["recv"] += 1
        return super().recv(*arguments)

    def send(self, *arguments: Any) -> int:
        self.calls["send"] += 1
        return super().send(*arguments)


class CountingSelector(selectors.EpollSelector):
    """The loop's selector, which counts how often it waits and how often it changes what it waits for."""

    def select(self, timeout: float | None = None) -> Any:
        CountingSocket.calls["epoll_wait"] += 1
        return super().select(timeout)

    def register(self, *arguments: Any) -> selectors.SelectorKey:
        CountingSocket.calls["epoll_ctl"] += 1
        return super().register(*arguments)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        CountingSocket.calls["epoll_ctl"] += 1
        return super().unregister(fileobj)


def test_system_calls_per_getpool(boot: Boot, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call on a connection that stands, with the view still fresh: the loop turns twice for it."""
    host = boot(GUEST_2X2X2)
    host.configure(**SMALL)
    welcome = Server._welcome
    monkeypatch.setattr(Server, "_welcome", lambda server, sock: welcome(server, CountingSocket(fileno=sock.detach())))
    monkeypatch.setattr(daemon, "FRESH_SECONDS", 1e9)

    def ask() -> Counter[str]:
        with Client(socket_of(host)) as client:
            client.call(f"{NAME}.GetPool")
            before = CountingSocket.calls.copy()
            for _ in range(CALLS):
                client.call(f"{NAME}.GetPool")
            return CountingSocket.calls - before

    async def test() -> None:
        async with running(host):
            told = await asyncio.to_thread(ask)
        turns = told.pop("epoll_wait")
        assert abs(turns - CALLS) <= 1, "the last turn may be after the reply, the first before the call"
        assert told == {"recv": CALLS, "send": CALLS}

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(CountingSelector())) as runner:
        runner.run(test())
