"""The enclaves of a walk: processes that hold leases, and can be asked whether they still have all their memory."""

import json
import mmap
import os
import signal
import socket
import time

from holder import acquire
from walk_service import SECONDS

PAGE = 2 << 20
ASK, END = b"?", b"."
WHOLE = "whole"


class Tenant:
    """A process that asked for a lease. It lives until it is ended, or has been refused."""

    id = ""
    """That of its lease; empty while it has none."""
    cpus: frozenset[int] = frozenset()

    def __init__(self, request: dict) -> None:
        """Ask; `answered` waits for the answer."""
        self._port, theirs = socket.socketpair()
        self._port.settimeout(SECONDS)
        if not (pid := os.fork()):
            _become(theirs, request)
        theirs.close()
        self.pid = pid

    def answered(self) -> str:
        """Return why it got no lease, and be gone then; empty if it has one."""
        said = self._hear()
        reply = json.loads(said) if said.startswith("{") else {"error": said}
        if "error" in reply:
            self.wait()
            return f"{reply['error'].rpartition('.')[2]} {json.dumps(reply.get('parameters'))}"
        lease = reply["parameters"]["lease"]
        self.id, self.online = lease["id"], lease["online"]
        self.node = lease["node"]
        self.cpus, self.mib = frozenset(lease["cpus"]), lease["memory_mib"]
        return ""

    def __str__(self) -> str:
        how = "online" if self.online else "offline"
        return f"{self.id} ({how}, CPUs {sorted(self.cpus)}, {self.mib} MiB of node {self.node}, pid {self.pid})"

    def told(self) -> str:
        """Return what is wrong with its memory; `whole` if nothing is."""
        try:
            self._port.sendall(ASK)
            return self._hear()
        except OSError as error:
            return f"it does not answer: {error}"

    def kill(self) -> None:
        """Kill it without a warning."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def end(self) -> None:
        """Let it end by itself."""
        self._port.sendall(END)
        self.wait()

    def wait(self) -> int:
        """Return its status once it has ended, as from a shell with a sign."""
        deadline = time.monotonic() + SECONDS
        while not (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            assert time.monotonic() < deadline, f"the tenant {self.pid} does not end"
            time.sleep(0.02)
        self._port.close()
        return os.waitstatus_to_exitcode(ended[1])

    def _hear(self) -> str:
        """Return the next message."""
        said = b""
        while not said.endswith(b"\0"):
            part = self._port.recv(65536)
            if not part:
                return f"it is gone after {said!r}"
            said += part
        return said[:-1].decode()


def _become(port: socket.socket, request: dict) -> None:
    """Be the tenant: with no descriptor of the others, and an end of its own."""
    try:
        os.closerange(3, port.fileno())
        os.closerange(port.fileno() + 1, 1024)
        reply, fds = acquire(request)
        if "error" not in reply:
            _live(port, reply, fds[0])
        else:
            _say(port, json.dumps(reply))
    except BaseException as error:  # such as a service that is killed before it answers
        _say(port, repr(error))
    os._exit(0)


def _live(port: socket.socket, reply: dict, file: int) -> None:
    """Write all over the memory, and tell how it is whenever somebody asks."""
    lease = reply["parameters"]["lease"]
    size, mark = lease["memory_mib"] << 20, lease["id"].encode()
    step = {"2M": PAGE, "1G": 1 << 30}[lease["hugepage_size"]]
    with mmap.mmap(file, size) as memory:
        if any(memory[at : at + 4096].strip(b"\0") for at in range(0, size, PAGE)):
            raise SystemExit("the memory of a new lease is not clear")
        for at in range(0, size, PAGE):
            memory[at : at + len(mark)] = mark
        _say(port, json.dumps(reply))
        while port.recv(1) == ASK:
            stats = os.fstat(file)
            lost = [at // step for at in range(0, size, PAGE) if memory[at : at + len(mark)] != mark]
            short = stats.st_size != size or stats.st_blocks * 512 < size
            seen = f"its file has {stats.st_size} bytes, allocated are {stats.st_blocks * 512}, wanted {size}"
            _say(port, f"pages {lost} were overwritten" if lost else seen if short else WHOLE)


def _say(port: socket.socket, text: str) -> None:
    port.sendall(text.encode() + b"\0")
