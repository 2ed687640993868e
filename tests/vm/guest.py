"""A guest that boots once, has the package installed as a user would, and runs scripts one after another."""

import io
import json
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import agent
from image import REPO, ready_image
from machine import Machine

BOOT_SECONDS = 300.0
DEFAULT_SECONDS = 600.0
KILL_SECONDS = 30.0
CONSOLE_TAIL = 4096

TIMED_OUT = 124

Output = Callable[[bytes], object]


class GuestError(Exception):
    """The guest did not come up, refused the package, or died under a script."""


@dataclass(frozen=True)
class Result:
    """What became of a script: its exit status, 124 if its time ran out, and all it printed."""

    status: int
    output: bytes


class Guest:
    """A booted machine; a context manager, at whose end nothing of it is left."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.boot_seconds = 0.0

    def __enter__(self) -> Self:
        image, package = ready_image(), _package()
        started = time.monotonic()
        self._console = tempfile.TemporaryFile()
        self._port, port = socket.socketpair()
        with port:
            self._qemu = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self.machine.qemu(image, port.fileno())],
                pass_fds=[port.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._console,
                stderr=subprocess.STDOUT,
            )
        try:
            self._await_agent()
            self._install(package)
        except BaseException:
            self._end()
            raise
        self.boot_seconds = time.monotonic() - started
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def run_script(
        self,
        script: Path,
        arguments: Sequence[str] = (),
        files: Sequence[Path] = (),
        timeout: float = DEFAULT_SECONDS,
        output: Output | None = None,
    ) -> Result:
        """Run a script as root in a directory that holds it and the files; what it leaves running is killed.

        It runs by its `#!` line, or else with bash. `output` gets what it prints as it comes.
        """
        start = [f"./{script.name}"] if script.read_bytes()[:2] == b"#!" else ["bash", script.name]
        return self._run([*start, *arguments], [script, *files], timeout, output)

    def _await_agent(self) -> None:
        code = Path(agent.__file__).read_bytes()
        self._port.settimeout(BOOT_SECONDS)
        self._port.sendall(b"%d\n" % len(code) + code)
        try:
            self._receive()
        except TimeoutError:
            raise self._error(f"the guest did not come up in {BOOT_SECONDS:.0f} s") from None

    def _install(self, package: Path) -> None:
        result = self._run(["dpkg", "--install", package.name], [package], DEFAULT_SECONDS, None)
        if result.status:
            raise GuestError(f"cannot install {package.name}:\n{result.output.decode()}")

    def _run(self, command: list[str], files: Sequence[Path], timeout: float, output: Output | None) -> Result:
        self._port.settimeout(timeout)
        printed = bytearray()
        try:
            self._send(agent.FILES, _archive(files))
            self._send(agent.RUN, json.dumps(command).encode())
            return Result(self._follow(printed, timeout, output), bytes(printed))
        except TimeoutError:
            self._send(agent.KILL, b"")
            self._follow(printed, KILL_SECONDS, output)
            return Result(TIMED_OUT, bytes(printed))

    def _follow(self, printed: bytearray, timeout: float, output: Output | None) -> int:
        """Collect what a command prints until its exit status comes."""
        deadline = time.monotonic() + timeout
        while True:
            self._port.settimeout(max(0.001, deadline - time.monotonic()))
            kind, payload = self._receive()
            if kind == agent.STATUS:
                return int(payload)
            printed += payload
            if output:
                output(payload)

    def _send(self, kind: bytes, payload: bytes) -> None:
        self._port.sendall(agent.HEADER.pack(kind, len(payload)) + payload)

    def _receive(self) -> tuple[bytes, bytes]:
        kind, size = agent.HEADER.unpack(self._read(agent.HEADER.size))
        return kind, self._read(size)

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = self._port.recv(size - len(data))
            if not part:
                raise self._error("the guest died")
            data += part
        return bytes(data)

    def _error(self, what: str) -> GuestError:
        self._console.seek(0)
        tail = self._console.read()[-CONSOLE_TAIL:].decode(errors="replace")
        return GuestError(f"{what}; its console ends:\n{tail}")

    def _end(self) -> None:
        self._qemu.kill()
        self._qemu.wait()
        self._port.close()
        self._console.close()


def _package() -> Path:
    build = subprocess.run([REPO / "packaging" / "build-deb"], stdout=subprocess.PIPE, text=True, check=True)
    return Path(build.stdout.strip())


def _archive(files: Sequence[Path]) -> bytes:
    """Pack files by their base names, executable if they are scripts here."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for file in files:
            tar.add(file.resolve(), arcname=file.name)
    return archive.getvalue()
