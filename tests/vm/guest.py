"""A guest that boots, has the package installed as a user would, and runs scripts one after another."""

import io
import json
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import agent
from image import REPO, built_image
from machine import Machine
from port import Gone, Port

BOOT_SECONDS = 300.0
SEND_SECONDS = 60.0
KILL_SECONDS = 30.0
SCRIPT_SECONDS = 600.0

TIMED_OUT = 124
GUEST_FAILED = 125
REBOOT = 194
"""Exit status of a script that wants the guest rebooted, then to be run once more with `rebooted` as an argument."""

CONSOLE_TAIL = 4096
CONSOLE_NOISE = b"warning: TCG doesn't support requested feature"

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
        package, self._image = built_package(), built_image()
        started = time.monotonic()
        with ExitStack() as resources:
            self._disk = self._image.overlay(Path(resources.enter_context(tempfile.TemporaryDirectory())))
            self._machine_on = resources.enter_context(ExitStack())
            self._boot()
            self._install(package)
            self._resources = resources.pop_all()
        self.boot_seconds = time.monotonic() - started
        return self

    def __exit__(self, *exception: object) -> None:
        self._resources.close()

    def run_script(
        self,
        script: Path,
        arguments: Sequence[str] = (),
        files: Sequence[Path] = (),
        timeout: float = SCRIPT_SECONDS,
        output: Output | None = None,
    ) -> Result:
        """Run a script as root in a directory that holds it and the files; what it leaves running is killed.

        It runs by its `#!` line, or else with bash. `output` gets what it prints as it comes.
        """
        start = [f"./{script.name}"] if script.read_bytes().startswith(b"#!") else ["bash", script.name]
        result = self._run([*start, *arguments], [script, *files], timeout, output)
        if result.status != REBOOT:
            return result
        self._reboot()
        again = self._run([*start, *arguments, "rebooted"], [script, *files], timeout, output)
        return Result(again.status, result.output + again.output)

    def _reboot(self) -> None:
        """Shut the guest down as its user would, which ends QEMU, and boot it from its own disk."""
        self._port.send(agent.RUN, json.dumps(["systemctl", "reboot"]).encode() + b"\0" + _archive([]), SEND_SECONDS)
        try:
            self._qemu.wait(BOOT_SECONDS)
        except subprocess.TimeoutExpired:
            raise self._error(f"the guest did not shut down in {BOOT_SECONDS:.0f} s") from None
        self._boot()

    def _boot(self) -> None:
        self._machine_on.close()
        self._start(self._machine_on)
        self._await_agent()

    def _start(self, resources: ExitStack) -> None:
        self._console = resources.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        ours, theirs = socket.socketpair()
        self._port = Port(resources.enter_context(ours))
        with theirs:
            qemu = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self.machine.qemu(self._image, self._disk, theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._console,
                stderr=subprocess.STDOUT,
            )
        self._qemu = resources.enter_context(qemu)
        resources.callback(qemu.kill)

    def _await_agent(self) -> None:
        code = Path(agent.__file__).read_bytes()
        try:
            self._port.write(b"%d\n" % len(code) + code, SEND_SECONDS)
            self._port.receive(time.monotonic() + BOOT_SECONDS)
        except TimeoutError:
            raise self._error(f"the guest did not come up in {BOOT_SECONDS:.0f} s") from None
        except Gone:
            raise self._error("the guest died while it booted") from None

    def _install(self, package: Path) -> None:
        result = self._run(["dpkg", "--install", package.name], [package], SCRIPT_SECONDS, None)
        if result.status:
            raise GuestError(f"cannot install {package.name}:\n{result.output.decode(errors='replace')}")

    def _run(self, command: list[str], files: Sequence[Path], timeout: float, output: Output | None) -> Result:
        printed = bytearray()
        try:
            self._port.send(agent.RUN, json.dumps(command).encode() + b"\0" + _archive(files), SEND_SECONDS)
            status = self._follow(printed, timeout, output)
            if status is None:
                self._port.send(agent.KILL, b"", SEND_SECONDS)
                if self._follow(printed, KILL_SECONDS, output) is None:
                    self._qemu.kill()
                status = TIMED_OUT
        except Gone:
            raise self._error(f"the guest died under {command}") from None
        return Result(status, bytes(printed))

    def _follow(self, printed: bytearray, seconds: float, output: Output | None) -> int | None:
        """Collect what a command prints until its exit status comes; None if it does not come in time."""
        deadline = time.monotonic() + seconds
        try:
            while (message := self._port.receive(deadline))[0] != agent.STATUS:
                printed += message[1]
                if output:
                    output(message[1])
        except TimeoutError:
            return None
        return int(message[1])

    def _error(self, what: str) -> GuestError:
        """Return the error with the end of the console, less what QEMU says of the model at every boot."""
        self._console.seek(0)
        console = b"".join(line for line in self._console if CONSOLE_NOISE not in line)
        return GuestError(f"{what}; its console ends:\n{console[-CONSOLE_TAIL:].decode(errors='replace')}")


def built_package(*wanted: str) -> Path:
    """Return a package of the working tree, `deb` if nothing else is wanted, built if anything in it has changed."""
    command = [REPO / "packaging" / "build", *(wanted or ("deb",))]
    build = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Path(build.stdout.strip())


def built_enclave_image() -> Path:
    """Return the sample enclave image with the small kernel, which the first time takes minutes to build."""
    image = REPO / "build" / "hello-small.eif"
    subprocess.run([REPO / "examples" / "hello" / "build", "--small", image, REPO / ".cache" / "hello"], check=True)
    return image


def _archive(files: Sequence[Path]) -> bytes:
    """Pack files by their base names, for root to own and everybody to run, whatever they are here."""

    def for_all(file: tarfile.TarInfo) -> tarfile.TarInfo:
        file.uid = file.gid = 0
        file.uname = file.gname = "root"
        file.mode |= 0o555
        return file

    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for file in files:
            tar.add(file.resolve(), arcname=file.name, filter=for_all)
    return archive.getvalue()
