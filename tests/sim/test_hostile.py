"""Hostile clients against the whole daemon: each harms its own connection only, while another's GetPool is answered."""

import asyncio
import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from ali_enclaves_allocator.change.ledger import Ledger
from ali_enclaves_allocator.daemon import Daemon, Paths
from ali_enclaves_allocator.server.interface import NAME
from enclave_cli.client import Client
from tests.conftest import Boot
from tests.machines import GUEST_2X2X2
from tests.sim.host import BOOT_ID, Host

CALL = json.dumps({"method": f"{NAME}.GetPool"}).encode() + b"\0"
WATCH = json.dumps({"method": f"{NAME}.Watch", "more": True}).encode() + b"\0"


def connect(path: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    return client


def send(client: socket.socket, data: bytes) -> None:
    """Send as much as the other side takes; that it hangs up, or takes no more, is its right."""
    client.settimeout(2)
    with suppress(BrokenPipeError, ConnectionResetError, TimeoutError):
        client.sendall(data)


def garbage(path: str, keep: ExitStack) -> None:
    for data in (b"\xff" * 1000 + b"\0", b"GET / HTTP/1.1\r\n\r\n\0", b"\0" * 5000, b"{}\0"):
        send(keep.enter_context(connect(path)), data)


def endless_frame(path: str, keep: ExitStack) -> None:
    send(keep.enter_context(connect(path)), b'{"method":"' + b"x" * (1 << 20))


def deep_nesting(path: str, keep: ExitStack) -> None:
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        deep = opening * 30_000 + b"1" + closing * 30_000
        send(keep.enter_context(connect(path)), b'{"method":"a.b","parameters":{"a":' + deep[:65_000] + b"}}\0")


def half_open(path: str, keep: ExitStack) -> None:
    for data in (b"", b'{"meth', CALL):
        client = keep.enter_context(connect(path))
        send(client, data)
        client.shutdown(socket.SHUT_WR)


def watchers_that_never_read(path: str, keep: ExitStack) -> None:
    for _ in range(20):
        send(keep.enter_context(connect(path)), WATCH * 50)


def callers_that_never_read(path: str, keep: ExitStack) -> None:
    for _ in range(5):
        send(keep.enter_context(connect(path)), CALL * 5000)


def descriptors(path: str, keep: ExitStack) -> None:
    client = keep.enter_context(connect(path))
    for _ in range(20):
        socket.send_fds(client, [b'{"method":'], [0] * 100)


HOSTILE: dict[str, Callable[[str, ExitStack], None]] = {
    attack.__name__: attack
    for attack in (
        garbage,
        endless_frame,
        deep_nesting,
        half_open,
        watchers_that_never_read,
        callers_that_never_read,
        descriptors,
    )
}


@pytest.fixture
def host(boot: Boot) -> Host:
    host = boot(GUEST_2X2X2)
    host.configure(memory_mib=64, cpu_count=2)
    return host


def serve(host: Host, test: Callable[[Daemon, str], Any]) -> None:
    """Run a test, in a thread, against a daemon that serves meanwhile and ends as it should."""

    async def whole() -> None:
        paths = Paths(host.config_path, host.directory)
        daemon = Daemon(paths, host.simulation.kernel, Ledger(host.directory, BOOT_ID))
        await daemon.start()
        try:
            await asyncio.to_thread(test, daemon, str(host.directory / "allocator.sock"))
            assert await daemon.healthy()
        finally:
            await daemon.stop(keep=False)

    asyncio.run(whole())
    host.assert_untouched()


def assert_answered(path: str) -> None:
    with Client(path, timeout=30) as client:
        assert client.call(f"{NAME}.GetPool")["pool"]["state"] == "ready"


@pytest.mark.parametrize("attack", HOSTILE.values(), ids=HOSTILE)
def test_harms_its_own_connection_only(
    attack: Callable[[str, ExitStack], None], host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    def test(_: Daemon, path: str) -> None:
        with ExitStack() as keep, Client(path, timeout=30) as bystander:
            assert bystander.call(f"{NAME}.GetPool")
            fds = len(os.listdir("/proc/self/fd"))
            attack(path, keep)
            assert_answered(path)
            assert bystander.call(f"{NAME}.GetPool")["pool"]["state"] == "ready"
            assert len(os.listdir("/proc/self/fd")) <= fds + 2 * 40, "no descriptor sent unasked is kept"

    serve(host, test)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_all_of_them_at_once(host: Host) -> None:
    def test(daemon: Daemon, path: str) -> None:
        with ExitStack() as keep:
            for attack in HOSTILE.values():
                attack(path, keep)
            for _ in range(3):
                daemon.tell()  # what the watchers that never read have to be told
            assert_answered(path)

    serve(host, test)


HOARDER = """
import socket, sys
held = []
try:
    for _ in range(int(sys.argv[2])):
        client = socket.socket(socket.AF_UNIX)
        client.connect(sys.argv[1])
        held.append(client)
except OSError:
    pass
print(len(held), flush=True)
sys.stdin.read()
"""


@contextmanager
def hoarder(path: str, count: int) -> Iterator[int]:
    """Run another process of this uid that holds so many connections and says nothing on them."""
    command = [sys.executable, "-c", HOARDER, path, str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        yield int(process.stdout.readline())
        process.stdin.close()


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Let this process have as many descriptors as the service may (LimitNOFILE=)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_who_leaks_connections_starves_no_check_of_the_daemon_itself(host: Host, many_descriptors: None) -> None:
    """The daemon, which here is this very process, asks itself whether it is alive; its uid is the leaking one's."""

    def test(daemon: Daemon, path: str) -> None:
        with hoarder(path, 1300) as held:
            assert held == 1300, "all were let in by the kernel; the server closes what is too many"
            assert refused(path), "another process of that uid is not served"
            assert_answered(path)

    serve(host, test)


def refused(path: str) -> bool:
    """Tell whether another process of this uid is turned away."""
    ask = "import sys; from enclave_cli.client import Client; Client(sys.argv[1]).call(sys.argv[2])"
    done = subprocess.run(
        [sys.executable, "-c", ask, path, f"{NAME}.GetPool"], capture_output=True, text=True, check=False
    )
    return "Unavailable" in done.stderr
