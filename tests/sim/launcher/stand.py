"""What the launcher's tests run against: an allocator of their own, a QEMU of their own, tiny images."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import BaseModel

from ali_enclaves_allocator.server.idl import render
from ali_enclaves_allocator.server.interface import (
    AcquireParameters,
    AcquireReply,
    HolderView,
    LeaseName,
    LeasesReply,
    LeaseView,
)
from ali_enclaves_allocator.server.varlink import Call, Interface, Method, Nothing, Reply, Server, VarlinkError
from enclave_cli import eif_build
from enclave_cli.allocator import INTERFACE
from tests.sim.varlink.example import listen

T = TypeVar("T")
PATIENCE = 30.0


class Pool(BaseModel):
    """As much of a pool as the launcher looks at."""

    pool: dict[str, Any]


class FakeAllocator:
    """Lends what is asked, as memfds; a lease ends with its holder, and is given back some time later.

    `refuse` makes Acquire and Release fail, `silent` Acquire never answer.
    """

    def __init__(self, path: Path) -> None:
        self.listener = listen(str(path))
        self.leases: dict[str, LeaseView] = {}
        self.asked: list[AcquireParameters] = []
        self.refuse: tuple[str, str] | None = None
        self.silent = False
        self.given_back_after = 0.0
        self.ending: list[int] = []
        self.numbers = iter(range(1, 1000))
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.server = self.run(self.start())

    def run(self, work: Awaitable[T]) -> T:
        async def task() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(task(), self.loop).result(PATIENCE)

    async def start(self) -> Server:
        methods: list[Method[Any, Any]] = [
            Method("Acquire", self.acquire, AcquireParameters, AcquireReply),
            Method("Release", self.release, LeaseName, Nothing),
            Method("GetPool", self.get_pool, Nothing, Pool),
            Method("ListLeases", self.list_leases, Nothing, LeasesReply),
        ]
        interface = Interface(INTERFACE, methods, lambda: render(INTERFACE, methods))
        server = Server(self.listener, [interface], vendor="", product="", version="", url="")
        await server.start()
        return server

    def stop(self) -> None:
        self.run(self.server.close(timeout=0.01))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(PATIENCE)
        self.loop.close()
        self.listener.close()

    async def acquire(self, call: Call, asked: AcquireParameters) -> Reply[AcquireReply]:
        """Lend."""
        self.asked.append(asked)
        if self.silent:
            await asyncio.sleep(PATIENCE)
        if self.refuse:
            raise VarlinkError(f"{INTERFACE}.{self.refuse[0]}", {"message": self.refuse[1]})
        cpus = asked.cpus or [number % (os.cpu_count() or 1) for number in range(asked.cpu_count or 0)]
        lease = LeaseView(
            id=f"{next(self.numbers):016x}",
            name=asked.name,
            cpus=cpus,
            node=0,
            memory_mib=asked.memory_mib,
            hugepage_size="2M",
            online=asked.online,
            scope="evm.scope",
            holder=HolderView(pid=call.peer.pid, uid=call.peer.uid, comm="python3"),
            since=time.time(),
            annotations=asked.annotations or {},
        )
        self.leases[lease.id] = lease
        pidfd = os.pidfd_open(call.peer.pid)
        asyncio.get_running_loop().add_reader(pidfd, self.ended, pidfd, lease.id)
        memory = os.memfd_create("lease")
        os.truncate(memory, asked.memory_mib << 20)
        return Reply(AcquireReply(lease=lease, memory_fd=0), fds=[memory])

    def ended(self, pidfd: int, lease: str) -> None:
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
        if self.leases.pop(lease, None) and self.given_back_after:
            self.ending.append(0)
            asyncio.get_running_loop().call_later(self.given_back_after, self.ending.clear)

    async def get_pool(self, _: Call, __: Nothing) -> Pool:
        """Tell which CPUs are lent."""
        lent = [lease.cpus for lease in self.leases.values()] + [self.ending]
        return Pool(pool={"nodes": [{"cores": [{"cpus": cpus, "use": "leased"} for cpus in lent]}]})

    async def release(self, _: Call, which: LeaseName) -> Nothing:
        """End a lease."""
        if self.refuse:
            raise VarlinkError(f"{INTERFACE}.{self.refuse[0]}", {"message": self.refuse[1]})
        if which.lease not in self.leases:
            raise VarlinkError(f"{INTERFACE}.NoSuchLease", {"message": f"no lease {which.lease}"})
        del self.leases[which.lease]
        return Nothing()

    async def list_leases(self, _: Call, __: Nothing) -> LeasesReply:
        """Tell all."""
        return LeasesReply(leases=list(self.leases.values()))


HEADER = 48
LOAD = 0x100000
PRINT_CMDLINE = bytes.fromhex("8b7310 66baf803 ac 84c0 7403 ee ebf8 b00a ee ebfe")
"""Writes the command line that the loader left at [ebx+16] to the serial port, then spins."""
RESET = bytes.fromhex("b0fe e664")
"""Resets the machine by its keyboard controller, which ends a QEMU that does not reboot."""


def tiny_kernel(*, ends: bool) -> bytes:
    """Return a multiboot kernel of a few bytes."""
    code = PRINT_CMDLINE[:-2] + RESET * ends + PRINT_CMDLINE[-2:]
    magic, flags = 0x1BADB002, 0x00010000
    size = HEADER + len(code)
    fields = (magic, flags, -(magic + flags) % 2**32, LOAD, LOAD, LOAD + size, LOAD + size, LOAD + HEADER)
    return b"".join(field.to_bytes(4, "little") for field in fields).ljust(HEADER, b"\0") + code


def tiny_image(
    cmdline: str = "hello from a tiny kernel", metadata: dict[str, object] | None = None, *, ends: bool = False
) -> bytes:
    """Return an image that QEMU boots in no time; one that `ends` resets the machine instead of spinning."""
    return eif_build.build(tiny_kernel(ends=ends), cmdline, [b"ramdisk"], metadata)


WITHOUT_VSOCK = """#!/bin/bash
# QEMU on a machine without vhost-vsock.
arguments=()
while (($#)); do
    if [ "$1" = -device ]; then shift 2; else arguments+=("$1"); shift; fi
done
exec qemu-system-x86_64 "${arguments[@]}"
"""

PREAMBLE = """
import os, sys
sys.path.insert(0, {repository!r})
from enclave_cli import enclaves, paths, vsock
paths.SOCKET, paths.RUN, paths.SETTINGS = {socket!r}, {run!r}, {settings!r}
enclaves.GRACE_SECONDS = 0.5
vsock.claim = lambda cid: (os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC), cid or 4 + os.getpid())
from enclave_cli.cli import main
sys.exit(main())
"""


class Cli:
    """The launcher, with its paths in a directory of the test's."""

    def __init__(self, directory: Path, run_directory: Path, qemu: str) -> None:
        self.directory, self.run_directory = directory, run_directory
        self.socket = directory / "sock"
        script = directory / "qemu"
        script.write_text(qemu)
        script.chmod(0o755)
        self.settings = directory / "enclave-cli.conf"
        self.settings.write_text(f"# of a test\n[enclave-cli]\naccel = tcg\nqemu = {script}\n")
        paths = {
            "repository": str(Path(__file__).parents[3]),
            "socket": str(self.socket),
            "run": str(self.run_directory),
            "settings": str(self.settings),
        }
        self.preamble = PREAMBLE.format(**paths)

    def set(self, line: str) -> None:
        """Add a line to the settings."""
        self.settings.write_text(f"{self.settings.read_text()}{line}\n")

    def command(self, *arguments: str) -> Sequence[str]:
        return [sys.executable, "-IS", "-c", self.preamble, *arguments]

    def __call__(self, *arguments: str, stdout: int | IO[str] = subprocess.PIPE) -> "subprocess.CompletedProcess[str]":
        command = self.command(*arguments)
        return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=PATIENCE, check=False)

    def begin(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(self.command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def directory_of(self, enclave: Mapping[str, Any]) -> Path:
        """Return an enclave's directory."""
        [found] = self.run_directory.glob(f"{enclave['EnclaveID'][-16:]}.*")
        return found

    def image(self, data: bytes) -> str:
        path = self.directory / "tiny.eif"
        path.write_bytes(data)
        return str(path)


RUN = ("run-enclave", "--cpu-count", "2", "--memory", "64", "--eif-path")


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


def lines(text: str) -> list[str]:
    return [line.removeprefix("enclave-cli: ") for line in text.splitlines()]


def run(cli: Cli, *more: str, image: bytes | None = None) -> dict[str, Any]:
    done = cli(*RUN, cli.image(image or tiny_image()), *more)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def command_lines() -> Iterator[bytes]:
    for directory in Path("/proc").iterdir():
        try:
            yield (directory / "cmdline").read_bytes()
        except OSError:
            continue
