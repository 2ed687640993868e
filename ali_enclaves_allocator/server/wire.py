"""One Unix connection, seen as frames: bytes that end in NUL, with descriptors beside those we send.

It knows the bytes of Varlink and nothing of their meaning. Whatever a client does to us by what it sends, or by
not reading what we send, ends here, and ends its own connection only.
"""

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

RECEIVE_BYTES = 4096
"""Bytes read at a time: what a client can be ahead of us by, and how many calls it gets in one turn of the loop."""


@dataclass(frozen=True)
class Limits:
    """What clients may take."""

    frame: int = 64 * 1024
    """Bytes of one incoming frame without its NUL; a longer one ends the connection."""
    frame_seconds: float = 10.0
    """Seconds from the first byte of an incoming frame to its NUL; then the connection ends."""
    sent: int = 32 * 1024
    """Bytes that the kernel holds for a reader, without its own overhead (SO_SNDBUF in socket(7))."""
    queue: int = 256 * 1024
    """Bytes that wait for a reader beyond those; a connection that lets more wait is dropped."""
    queues: int = 16 * 1024 * 1024
    """The same for all connections of a uid together; beyond it, none of them may let anything wait."""
    connections: int = 1200
    """Connections of one uid; further ones are closed when accepted."""
    accept_pause: float = 1.0
    """Seconds without accepting after this process ran out of descriptors or memory."""


@dataclass
class Account:
    """What the connections of one uid take together."""

    connections: int = 0
    queued: int = 0
    """Bytes that wait for its readers."""


class FrameTooLong(Exception):
    """A frame grew beyond its limit before its NUL came."""


class Frames:
    """Cuts a stream of bytes at its NULs, however it is chunked; `partial` is the unfinished rest."""

    def __init__(self, limit: int) -> None:
        self.limit, self.partial = limit, bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the frames that `data` completes. Raises FrameTooLong after those before the long one."""
        *ends, rest = data.split(b"\0")
        for end in ends:
            self._grow(end)
            yield bytes(self.partial)
            self.partial.clear()
        self._grow(rest)

    def _grow(self, data: bytes) -> None:
        self.partial += data
        if len(self.partial) > self.limit:
            raise FrameTooLong


class Wire:
    """The frames of one connection. Owns `sock`, and the descriptors given to `send` until they are sent.

    Reading ends once: at end of file, at a broken limit or with `finish`; then `on_end` is called. The frames
    that came before are still handed out and can still be replied to.
    """

    def __init__(self, sock: socket.socket, limits: Limits, account: Account, on_end: Callable[[], None]) -> None:
        self.sock, self.limits, self.account, self.on_end = sock, limits, account, on_end
        self.ended = False
        self._loop = asyncio.get_running_loop()
        self._frames, self._received = Frames(limits.frame), deque[bytes]()
        self._queue, self._queued = deque[tuple[bytearray, Sequence[int]]](), 0
        self._deadline: asyncio.TimerHandle | None = None
        self._arrived, self._drained = asyncio.Event(), asyncio.Event()
        self._drained.set()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, limits.sent)
        self._loop.add_reader(sock, self._readable)

    async def receive(self) -> bytes | None:
        """Return the next frame, or None after the last; a client that leaves its replies unread waits."""
        while not self._received and not self.ended:
            self._arrived.clear()
            await self._arrived.wait()
        if self._queued > self.limits.frame:
            await self.drained()
        frame = self._received.popleft() if self._received else None
        if not self._received and not self.ended:
            self._loop.add_reader(self.sock, self._readable)
        return frame

    async def drained(self) -> None:
        """Wait until all that was sent is with the kernel, or the client was given up."""
        await self._drained.wait()

    def send(self, frame: bytes, fds: Sequence[int] = ()) -> None:
        """Queue a frame, NUL included, and close `fds` when it is sent or cannot be.

        Frames leave together at the loop's next turn. Those with descriptors leave alone, their first byte carrying
        them: sd-varlink takes what comes with a message for the first frame in it.
        """
        if self._queued > (self.limits.queue if self.account.queued <= self.limits.queues else 0):
            close_all(fds)
            return self._abandon()
        if not self._queue:
            self._drained.clear()
            self._loop.call_soon(self._writable)
        if not self._queue or self._queue[-1][1] or fds:
            self._queue.append((bytearray(), fds))
        self._queue[-1][0].extend(frame)
        self._count(len(frame))

    def finish(self) -> None:
        """Take what has arrived by now and read no more."""
        if not self.ended:
            self._readable()
            self._end()

    def close(self) -> None:
        """Write what the socket still takes, drop the rest and close it."""
        self._writable()
        self._abandon()
        self.sock.close()

    def _readable(self) -> None:
        """Read once, unless this client is ahead of us: then it waits in its socket's buffer.

        Without room for ancillary data the kernel drops the descriptors that nobody asked for; they never are ours.
        """
        if self._received:
            self._loop.remove_reader(self.sock)
            return self._stop_clock()
        try:
            data = self.sock.recv(RECEIVE_BYTES)
            self._received.extend(self._frames.feed(data))
        except BlockingIOError:
            return
        except (OSError, FrameTooLong):
            data = b""
        if self._received:
            self._arrived.set()
        if data:
            self._time_partial()
        else:
            self._end()

    def _time_partial(self) -> None:
        """Give an unfinished frame its deadline when it begins; frames that come whole cost no timer."""
        if self._received:
            self._stop_clock()
        if self._frames.partial and not self._deadline:
            self._deadline = self._loop.call_later(self.limits.frame_seconds, self._end)

    def _stop_clock(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def _end(self) -> None:
        if self.ended:
            return
        self.ended = True
        self._loop.remove_reader(self.sock)
        self._stop_clock()
        self._arrived.set()
        self.on_end()

    def _writable(self) -> None:
        """Write as much as the socket takes; the loop calls again for the rest."""
        if self._drained.is_set():  # given up since the loop was asked
            return
        try:
            while self._queue:
                data, fds = self._queue[0]
                sent = socket.send_fds(self.sock, [data], fds) if fds else self.sock.send(data)
                close_all(fds)
                del data[:sent]
                self._queue[0] = (data, ())
                if not data:
                    self._queue.popleft()
                self._count(-sent)
        except BlockingIOError:
            self._loop.add_writer(self.sock, self._writable)
        except OSError:
            self._abandon()
        else:
            self._loop.remove_writer(self.sock)
            self._drained.set()

    def _abandon(self) -> None:
        """Give the client up: nothing more is read, handed out or written."""
        self._received.clear()
        for _, fds in self._queue:
            close_all(fds)
        self._queue.clear()
        self._count(-self._queued)
        self._loop.remove_writer(self.sock)
        self._drained.set()
        self.sock.shutdown(socket.SHUT_RDWR)
        self._end()

    def _count(self, change: int) -> None:
        self._queued += change
        self.account.queued += change


def close_all(fds: Iterable[int]) -> None:
    """Close each of the descriptors."""
    for fd in fds:
        os.close(fd)
