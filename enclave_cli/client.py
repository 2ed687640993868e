"""A Varlink client for command-line tools: it blocks, and needs nothing but the standard library.

One call is under way at a time, so the descriptors that arrive belong to its reply.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import struct

TYPE_CHECKING = False  # without `typing`, which takes a tenth of the time that a command takes to start
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any

FDS_BYTES = socket.CMSG_SPACE(253 * struct.calcsize("i"))  # what one message carries at most: unix(7)


class CallError(Exception):
    """The service answered with an error: its qualified name and its fields."""

    def __init__(self, name: str, parameters: dict[str, Any]) -> None:
        self.name, self.parameters = name, parameters
        super().__init__(name, parameters)


class Unavailable(OSError):
    """The service cannot be reached, went away or kept silent; `filename` is its socket.

    `errno` tells which: ENOENT no socket, ECONNREFUSED nobody listens, EACCES not permitted, ECONNRESET or EPIPE
    closed before the reply, ETIMEDOUT no reply in time, EPROTO a reply that is not Varlink.
    """


class Client:
    """A connection to the service at `path`; `timeout` limits every wait for it, in seconds.

    It is closed on leaving its `with`, and by Unavailable, which the constructor and all methods may raise.
    """

    def __init__(self, path: str, timeout: float | None = 30.0) -> None:
        self.path, self.timeout = path, timeout
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._received, self._fds = bytearray(), list[int]()
        self._limit_waits(timeout)
        try:
            self.sock.connect(path)
        except OSError as error:
            raise self._unavailable(error) from None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; once more does nothing."""
        self.sock.close()
        self._close_fds()

    def call(self, method: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        """Call `method` and return its reply. Raises CallError."""
        reply = self._exchange({"method": method, "parameters": parameters or {}})
        self._close_fds()
        return reply.get("parameters") or {}

    def call_for_fds(self, method: str, parameters: dict[str, Any] | None = None) -> tuple[dict[str, Any], list[int]]:
        """Call `method`; return its reply and the descriptors beside it, now the caller's. Raises CallError."""
        reply = self._exchange({"method": method, "parameters": parameters or {}})
        fds, self._fds = self._fds, []
        return reply.get("parameters") or {}, fds

    def stream(
        self, method: str, parameters: dict[str, Any] | None = None, output: int | None = None
    ) -> Generator[dict[str, Any], None, None]:
        """Call `method` with `more` and yield its replies; only the first is waited for with a limit.

        Raises CallError, and BrokenPipeError as soon as nobody reads any more what is written to the descriptor
        `output`. The connection is closed when the iteration ends, or is given up.
        """
        with self:
            reply = self._exchange({"method": method, "parameters": parameters or {}, "more": True})
            self._limit_waits(None)
            while reply.get("continues"):
                yield reply.get("parameters") or {}
                if output is not None and b"\0" not in self._received:
                    self._wait_beside(output)
                reply = self._exchange()
            yield reply.get("parameters") or {}

    def _limit_waits(self, seconds: float | None) -> None:
        """Set the kernel's timeouts, 0 for none: with Python's, connect fails at once when the backlog is full."""
        limit = struct.pack("ll", *divmod(int((seconds or 0) * 1_000_000), 1_000_000))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)

    def _exchange(self, call: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send a call, if there is one, and return the next reply; `_fds` are what came beside it."""
        self._close_fds()
        try:
            if call:
                self.sock.sendall(json.dumps(call).encode() + b"\0")
            while b"\0" not in self._received:
                data, ancillary, _, _ = self.sock.recvmsg(65536, FDS_BYTES, socket.MSG_CMSG_CLOEXEC)
                for _level, _kind, fds in ancillary:  # socket.recv_fds of Python 3.11 loses the flag
                    self._fds += [fd for (fd,) in struct.iter_unpack("i", fds)]
                self._received += data
                if not data:
                    raise ConnectionResetError(errno.ECONNRESET, "closed before the reply")
            frame, _, self._received = self._received.partition(b"\0")
            reply = dict(json.loads(frame))
        except (OSError, ValueError, TypeError) as error:
            raise self._unavailable(error) from None
        if reply.get("error"):
            self._close_fds()
            raise CallError(reply["error"], reply.get("parameters") or {})
        return reply

    def _wait_beside(self, output: int) -> None:
        """Wait for the service, unless the reader of `output` goes first. Raises BrokenPipeError."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        poll.register(output, 0)  # its end is told unasked
        if dict(poll.poll()).get(output, 0) & (select.POLLERR | select.POLLHUP):
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    def _close_fds(self) -> None:
        while self._fds:
            os.close(self._fds.pop())

    def _unavailable(self, cause: Exception) -> Unavailable:
        """Close the connection, for what would come next on it belongs to nobody, and tell why."""
        self.close()
        number = getattr(cause, "errno", None) or errno.EPROTO
        number = errno.ETIMEDOUT if number == errno.EAGAIN else number  # EAGAIN: a limit of ours has passed
        return Unavailable(number, os.strerror(number), self.path)
