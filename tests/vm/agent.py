"""Runs scripts inside the guest; sent there at each boot, so it stands alone.

Both sides exchange messages: a kind (one byte), a length (four bytes, big-endian) and that many bytes. The
host sends RUN (a JSON list of arguments, a NUL and a tar for the fresh working directory), and KILL when its
time runs out, which may be just too late; the guest sends READY once, and for each RUN any number of OUTPUT
and one STATUS (a decimal number, as a shell would show it).
"""

import io
import itertools
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
RUN, KILL = b"R", b"K"
READY, OUTPUT, STATUS = b"G", b"O", b"S"

# The unit makes the port standard input and output.
PORT_IN, PORT_OUT = 0, 1

ENVIRONMENT = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
}


def main() -> None:
    """Serve the host for as long as the guest lives."""
    own = own_cgroup()
    numbers = itertools.count(1)
    send(READY)
    while True:
        kind, payload = receive()
        if kind != RUN:
            continue
        command, _, archive = payload.partition(b"\0")
        cgroup = Cgroup(own / f"script-{next(numbers)}")
        status = run(json.loads(command), unpack(archive), cgroup)
        cgroup.remove()
        send(STATUS, str(status).encode())


def own_cgroup() -> Path:
    """Return the agent's cgroup in the tree of cgroup v2, which systemd may mount beside those of v1."""
    beside = Path("/sys/fs/cgroup/unified")
    [line] = [line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::/")]
    return (beside if beside.exists() else beside.parent) / line.removeprefix("0::/")


def receive() -> tuple[bytes, bytes]:
    """Return the kind and the payload of the next message."""
    kind, size = HEADER.unpack(read(HEADER.size))
    return kind, read(size)


def read(size: int) -> bytes:
    """Read exactly that many bytes."""
    data = bytearray()
    while len(data) < size:
        data += os.read(PORT_IN, size - len(data))
    return bytes(data)


def send(kind: bytes, payload: bytes = b"") -> None:
    """Send one message."""
    unsent = memoryview(HEADER.pack(kind, len(payload)) + payload)
    while unsent:
        unsent = unsent[os.write(PORT_OUT, unsent) :]


def unpack(archive: bytes) -> str:
    """Unpack a tar into a fresh directory, open to all users, and return its path."""
    directory = tempfile.mkdtemp(prefix="script-", dir="/var/tmp")
    os.chmod(directory, 0o755)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(directory)
    return directory


class Cgroup:
    """The cgroup of one script: whatever stays behind in there ends with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def wrap(self, command: list[str]) -> list[str]:
        """Return a command that moves itself in and becomes the given one."""
        return ["sh", "-c", 'echo 0 >"$1" && shift && exec "$@"', "sh", str(self.path / "cgroup.procs"), *command]

    def kill(self) -> None:
        """Kill every process inside."""
        Path(self.path, "cgroup.kill").write_text("1")

    def remove(self) -> None:
        """Kill what is left, and return when the kernel has its memory back."""
        self.kill()
        while "populated 1" in Path(self.path, "cgroup.events").read_text():
            time.sleep(0.02)
        self.path.rmdir()


def run(command: list[str], directory: str, cgroup: Cgroup) -> int:
    """Run one command, pass on what it prints, and return its exit status."""
    script = subprocess.Popen(
        cgroup.wrap(command),
        cwd=directory,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert script.stdout
    with script:
        forward(script.stdout.fileno(), os.pidfd_open(script.pid), cgroup)
    return script.returncode if script.returncode >= 0 else 128 - script.returncode


def forward(output: int, ended: int, cgroup: Cgroup) -> None:
    """Pass on output until the script has ended and its pipe is empty: a straggler may hold the pipe open."""
    sources = [PORT_IN, ended, output]
    while ready := select.select(sources, [], [], None if ended in sources else 0)[0]:
        if PORT_IN in ready:
            receive()
            cgroup.kill()
        if ended in ready:
            sources.remove(ended)
            cgroup.kill()
        if output in ready:
            if data := os.read(output, 1 << 16):
                send(OUTPUT, data)
            else:
                sources.remove(output)
    os.close(ended)


if __name__ == "__main__":
    main()
