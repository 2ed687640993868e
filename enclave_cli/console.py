"""The serial console of an enclave in debug mode: one process records it, anyone of its user may watch."""

import contextlib
import errno
import os
import select
import socket
import stat
import sys

from enclave_cli import failure, paths, processes, users
from enclave_cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LARGEST = 1 << 20
"""A file that is full becomes `console.log.1`; so twice as much is kept."""

POLL_SECONDS = 0.1


def record(sock: socket.socket, directory: str) -> None:
    """Fork the process that writes what comes from QEMU to a file; it ends with the console."""
    if not os.fork():
        try:
            processes.detach({sock.fileno()})
            os.umask(0o077)
            _write(sock, os.path.join(directory, paths.CONSOLE))
        finally:
            os._exit(0)
    sock.close()


def _write(sock: socket.socket, path: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    size = 0
    while data := sock.recv(65536):
        if size + len(data) > LARGEST:
            os.rename(path, f"{path}.1")
            os.close(file)
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            size = 0
        size += os.write(file, data)


def show(directory: str, owner: int, out: int, alive: "Callable[[], bool]") -> None:
    """Write all that was recorded of a user's enclave to `out`, then what comes, as long as it is `alive`.

    Raises Failure, and BrokenPipeError as soon as nobody reads `out` any more.
    """
    path = os.path.join(directory, paths.CONSOLE)
    try:
        with contextlib.suppress(FileNotFoundError):
            _copy(_open(f"{path}.1"), out)
        fd = _open(path)
    except PermissionError:
        raise users.not_theirs("show the console", owner) from None
    except OSError as error:
        raise Failure(
            failure.NO_SUCH_ENCLAVE,
            f"cannot show the console: {path}: {error.strerror} (only an enclave of yours in debug mode has one)",
        ) from None
    while True:
        last = not alive()
        _copy(fd, out, close=False)
        if _replaced(fd, path):
            _copy(fd, out)
            fd = _open(path)
        elif last:
            os.close(fd)
            return
        else:
            _pause(out)


def _pause(out: int) -> None:
    """Wait a little, unless the reader of `out` has gone. Raises BrokenPipeError."""
    poll = select.poll()
    poll.register(out, 0)  # its end is told unasked
    if poll.poll(POLL_SECONDS * 1000):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def _open(path: str) -> int:
    """Open a recording. Where root watches, it is in another user's directory: a link or a FIFO is none.

    Raises:
        OSError: there is none.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file")
    return fd


def _replaced(fd: int, path: str) -> bool:
    """Tell whether the file at `path` is no longer the open one."""
    try:
        return not os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _copy(fd: int, out: int, close: bool = True) -> None:
    while data := os.read(fd, 65536):
        view = memoryview(data)
        while view:
            view = view[os.write(out, view) :]
    if close:
        os.close(fd)


def output() -> int:
    """Return the descriptor of standard output, all that was printed before written."""
    sys.stdout.flush()
    return sys.stdout.fileno()
