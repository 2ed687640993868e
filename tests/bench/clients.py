"""The same client for every server: as many connections as wanted, each with one call under way at a time.

It reads no JSON: what is measured is the server. A reply ends with a zero byte.
"""

import select
import socket
import struct

CALL = b'{"method":"io.ali-enclaves.Allocator.GetPool","parameters":{}}\0'
PATIENCE_S = 30


class Clients:
    """Connections that stand; a context manager, at whose end they are closed."""

    def __init__(self, path: str, count: int) -> None:
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        for _ in range(count):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            # by the kernel's own timeout, a connect waits while the backlog is full
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", PATIENCE_S, 0))
            self._sockets[sock.fileno()] = sock
            sock.connect(path)
            self._poll.register(sock, select.EPOLLIN)
        self.calls(2 * count)

    def __enter__(self) -> "Clients":
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._sockets.values():
            sock.close()
        self._poll.close()

    def calls(self, total: int) -> None:
        """Make so many calls over all connections, and wait for every answer.

        Raises:
            TimeoutError: the server keeps silent.
        """
        left = total
        for sock in list(self._sockets.values())[:total]:
            sock.send(CALL)
            left -= 1
        answered = 0
        while answered < total:
            ready = self._poll.poll(PATIENCE_S)
            if not ready:
                raise TimeoutError("the server keeps silent")
            for fd, _ in ready:
                received = self._sockets[fd].recv(1 << 16)
                if not received:
                    raise ConnectionResetError("the server hung up")
                if received.endswith(b"\0"):
                    answered += 1
                    if left:
                        self._sockets[fd].send(CALL)
                        left -= 1
