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


def record(sock: socket.socket, directory: str) -> int:
    """Fork the process that writes what comes from QEMU to a file, which is there at once; it ends with the console.

    Returns a pidfd of it.
    """
    path = os.path.join(directory, paths.CONSOLE)
    file = _create(path)
    pid = os.fork()
    if not pid:
        try:
            processes.detach({sock.fileno(), file})
            _write(sock, file, path)
        finally:
            os._exit(0)
    sock.close()
    os.close(file)
    return os.pidfd_open(pid)


def _create(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def _write(sock: socket.socket, file: int, path: str) -> None:
    size = 0
    while data := sock.recv(65536):
        if size + len(data) > LARGEST:
            os.rename(path, f"{path}.1")
            os.close(file)
            file = _create(path)
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


class Attached:
    """The console of an enclave that is being started, shown beside that from its first line on."""

    def __init__(self, directory: str, recorder: int, out: int) -> None:
        """Begin; `recorder` is a pidfd of who writes it, with whose end all is shown."""
        import threading

        self._directory, self._recorder, self._out = directory, recorder, out
        self._thread = threading.Thread(target=self._show, daemon=True)
        self._thread.start()

    def wait(self, seconds: float | None = None) -> None:
        """Wait until all is shown, or nobody reads it any more."""
        self._thread.join(seconds)

    def _show(self) -> None:
        with contextlib.suppress(OSError):
            show(self._directory, os.geteuid(), self._out, self._is_recorded)

    def _is_recorded(self) -> bool:
        return not select.select([self._recorder], [], [], 0)[0]


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
