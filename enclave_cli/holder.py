"""The process that takes the lease and becomes QEMU, and what its parent knows of it.

It asks the allocator itself, so the lease is its own: there is nothing to hand over, and whatever ends it ends the
lease. Parent and child talk over a pair of sockets; when either dies, the other reads the end of it.
"""

import contextlib
import errno
import json
import os
import resource
import select
import signal
import socket

from enclave_cli import allocator, failure, processes
from enclave_cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
LAST_WORDS = 4096


class Holder:
    """The parent's side: a forked child that waits for `acquire`, then for `start`.

    `command` makes the command from the lease and the descriptors, which are `fds` and the lease's `memory`.
    """

    def __init__(self, command: "Callable[[Any, dict[str, int]], list[str]]", fds: dict[str, int]) -> None:
        self.control, child = socket.socketpair()
        self._errors, errors = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            _Child(command, fds, child, errors).live()
        child.close()
        os.close(errors)
        self.pidfd = os.pidfd_open(self.pid)
        self._guard = processes.guard(self.pidfd)

    def acquire(self, request: "dict[str, Any]") -> "dict[str, Any]":
        """Have the child take a lease, and return it. Raises Failure."""
        line = b""
        try:
            self.control.sendall(json.dumps(request).encode() + b"\n")
            while not line.endswith(b"\n"):
                data = self.control.recv(65536)
                if not data:
                    raise ConnectionResetError
                line += data
        except ConnectionError:
            raise self.failure("before it had a lease") from None
        answer = json.loads(line)
        if "failure" in answer:
            raise Failure(*answer["failure"])
        return dict(answer["lease"])

    def start(self, directory: str) -> None:
        """Have the child become QEMU; its monitor will be in `directory`. Raises Failure."""
        try:
            self.control.sendall(directory.encode() + b"\n")
        except ConnectionError:
            raise self.failure("before it became QEMU") from None

    def ended(self, seconds: float = 0.0) -> bool:
        """Tell whether it has ended, or ends within some seconds."""
        return bool(select.select([self.pidfd], [], [], seconds)[0])

    def leave(self) -> None:
        """Let it live on after this process."""
        processes.dismiss(self._guard)

    def kill(self) -> None:
        """End it, whatever it is doing."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def failure(self, when: str, hint: str = "") -> Failure:
        """Return what to tell about its early end."""
        self.ended(5.0)
        status = os.waitpid(self.pid, os.WNOHANG)[1]
        how = f"it ended {when}, with " + (f"signal {status & 127}" if status & 127 else f"status {status >> 8}")
        if not status:
            how = f"it shut itself down {when}"
        os.set_blocking(self._errors, False)
        try:
            words = os.read(self._errors, LAST_WORDS).decode(errors="replace").strip()
        except BlockingIOError:
            words = ""
        last = f": {words.splitlines()[-1]}" if words else ""
        what = f"cannot start the enclave: {how}{last}"
        return Failure(failure.NOT_STARTED, f"{what} ({hint})" if hint else what)


class _Child:
    """The child's side."""

    def __init__(
        self,
        command: "Callable[[Any, dict[str, int]], list[str]]",
        fds: dict[str, int],
        control: socket.socket,
        errors: int,
    ) -> None:
        self.command, self.fds, self.control, self.errors = command, fds, control, errors

    def live(self) -> None:
        """Take the lease and become QEMU; never returns."""
        try:
            processes.detach({*self.fds.values(), self.control.fileno(), self.errors}, stderr=self.errors)
            if request := self.hear():
                self.hold(json.loads(request))
        except Failure as error:
            self.tell({"failure": [error.status, str(error)]})
        except BaseException as error:
            self.tell({"failure": [failure.NOT_STARTED, f"cannot start the enclave: {error!r}"]})
        finally:
            os._exit(1)

    def hold(self, request: "dict[str, Any]") -> None:
        lease, self.fds["memory"] = allocator.acquire(request)
        self.tell({"lease": lease})
        directory = self.hear()
        if not directory:
            return
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the enclave's memory is not for a core file
        os.umask(0o077)
        for fd in self.fds.values():
            os.set_inheritable(fd, True)
        command = self.command(lease | {"directory": directory}, self.fds)
        try:
            os.execve(command[0], command, ENVIRONMENT)
        except OSError as error:
            os.write(2, f"{command[0]}: {os.strerror(error.errno or errno.EIO)}\n".encode())

    def hear(self) -> str:
        """Return the next line of the parent, or nothing if it is gone."""
        line = b""
        while not line.endswith(b"\n"):
            data = self.control.recv(65536)
            if not data:
                return ""
            line += data
        return line.decode().strip()

    def tell(self, message: "dict[str, Any]") -> None:
        self.control.sendall(json.dumps(message).encode() + b"\n")
