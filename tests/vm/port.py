"""The host's end of the agent's port: messages in and out, none lost when the wait for one ends early."""

import socket
import time

from agent import HEADER


class Port:
    """A stream of messages. ConnectionError: the guest is gone; TimeoutError: it keeps us waiting."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._unread = bytearray()

    def write(self, data: bytes, seconds: float) -> None:
        """Write bytes as they are."""
        self._stream.settimeout(seconds)
        self._stream.sendall(data)

    def send(self, kind: bytes, payload: bytes, seconds: float) -> None:
        """Send one message."""
        self.write(HEADER.pack(kind, len(payload)) + payload, seconds)

    def receive(self, deadline: float) -> tuple[bytes, bytes]:
        """Return the kind and the payload of the next message, if it is whole by the deadline."""
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
            data = self._stream.recv(1 << 16)
            if not data:
                raise ConnectionResetError
            self._unread += data
