"""Runs scripts inside the guest; sent there at each boot, so it stands alone.

Both sides exchange messages: a kind (one byte), a length (four bytes, big-endian) and that many bytes. The host sends
FILES (a tar, unpacked into a fresh working directory), then RUN (a JSON list of arguments), and perhaps KILL; the guest
sends READY once, and for each RUN any number of OUTPUT and one STATUS (a decimal number, as a shell would show it).
"""

import io
import json
import os
import select
import struct
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path

HEADER = struct.Struct(">cI")
FILES, RUN, KILL = b"F", b"R", b"K"
READY, OUTPUT, STATUS = b"G", b"O", b"S"

ENVIRONMENT = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
}


class Port:
    """The guest's end of the virtio port, which the unit makes standard input and output."""

    def fileno(self) -> int:
        """Wait for messages here."""
        return 0

    def receive(self) -> tuple[bytes, bytes]:
        """Return the kind and the payload of the next message."""
        kind, size = HEADER.unpack(self._read(HEADER.size))
        return kind, self._read(size)

    def send(self, kind: bytes, payload: bytes = b"") -> None:
        """Send one message."""
        unsent = memoryview(HEADER.pack(kind, len(payload)) + payload)
        while unsent:
            unsent = unsent[os.write(1, unsent) :]

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += os.read(0, size - len(data))
        return data


class Cgroup:
    """The cgroup of one script: whatever it leaves behind in there ends with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def join(self) -> None:
        """Move the calling process in."""
        Path(self.path, "cgroup.procs").write_text("0")

    def kill(self) -> None:
        """Kill every process inside."""
        Path(self.path, "cgroup.kill").write_text("1")

    def remove(self) -> None:
        """Kill what is left, and return when its memory has gone back to the kernel."""
        self.kill()
        while "populated 1" in Path(self.path, "cgroup.events").read_text():
            time.sleep(0.02)
        self.path.rmdir()


def unpack(archive: bytes) -> str:
    """Unpack a tar into a fresh directory and return its path."""
    directory = tempfile.mkdtemp(prefix="script-", dir="/var/tmp")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(directory)
    return directory


def run(port: Port, arguments: list[str], directory: str, cgroup: Cgroup) -> int:
    """Run one command, passing on what it prints, until it has ended or is killed; return its exit status."""
    try:
        script = subprocess.Popen(
            arguments,
            cwd=directory,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=cgroup.join,
        )
    except OSError as error:
        port.send(OUTPUT, f"{arguments[0]}: {error.strerror}\n".encode())
        return 127
    assert script.stdout
    with script:
        forward(port, script, script.stdout.fileno(), cgroup)
    return script.returncode if script.returncode >= 0 else 128 - script.returncode


def forward(port: Port, script: subprocess.Popen[bytes], output: int, cgroup: Cgroup) -> None:
    """Pass on output until the script has ended and its pipe is empty; a straggler may hold the pipe open."""
    ended = os.pidfd_open(script.pid)
    sources: set[int | Port] = {port, output, ended}
    while ended in sources or output in sources:
        ready, _, _ = select.select(sources, [], [], None if ended in sources else 0)
        if not ready:
            break
        if port in ready:
            port.receive()
            cgroup.kill()
        if output in ready:
            if data := os.read(output, 1 << 16):
                port.send(OUTPUT, data)
            else:
                sources.remove(output)
        if ended in ready:
            cgroup.kill()
            sources.remove(ended)
    os.close(ended)


def main() -> None:
    """Serve the host for as long as the guest lives."""
    own = Path("/proc/self/cgroup").read_text().strip().removeprefix("0::/")
    port = Port()
    directory, count = "/", 0
    port.send(READY)
    while True:
        kind, payload = port.receive()
        if kind == FILES:
            directory = unpack(payload)
        elif kind == RUN:
            count += 1
            cgroup = Cgroup(Path("/sys/fs/cgroup", own, f"script-{count}"))
            status = run(port, json.loads(payload), directory, cgroup)
            cgroup.remove()
            port.send(STATUS, str(status).encode())


if __name__ == "__main__":
    main()
