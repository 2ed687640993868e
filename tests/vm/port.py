"""The host's end of the agent's port: messages in and out, none lost when the wait for one ends early."""

import socket
import time

from agent import HEADER


class Gone(Exception):
    """Nobody is at the other end any more."""


class Port:
    """A stream of messages, to and from a guest that may be gone."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._unread = bytearray()

    def write(self, data: bytes, seconds: float) -> None:
        """Write bytes as they are; a guest that does not take them in that time is as good as gone."""
        self._stream.settimeout(seconds)
        try:
            self._stream.sendall(data)
        except OSError as error:
            raise Gone from error

    def send(self, kind: bytes, payload: bytes, seconds: float) -> None:
        """Send one message."""
        self.write(HEADER.pack(kind, len(payload)) + payload, seconds)

    def receive(self, deadline: float) -> tuple[bytes, bytes]:
        """Return the kind and the payload of the next message; TimeoutError if it is not whole by the deadline."""
        size = HEADER.size
        self._fill(size, deadline)
        kind, length = HEADER.unpack_from(self._unread)
        self._fill(size + length, deadline)
        payload = bytes(self._unread[size : size + length])
        del self._unread[: size + length]
        return kind, payload

    def _fill(self, size: int, deadline: float) -> None:
        while len(self._unread) < size:
            self._stream.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = self._stream.recv(1 << 16)
            except ConnectionError as error:
                raise Gone from error
            if not data:
                raise Gone
            self._unread += data
