"""One Unix connection, seen as frames: bytes that end in NUL, with descriptors beside those we send.

It knows the bytes of Varlink and nothing of their meaning. Everything a client can do to us by what it sends,
or by not reading what we send, ends here and ends its own connection only.
"""

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What clients may take."""

    frame: int = 64 * 1024
    """Bytes of one incoming frame without its NUL; a longer one ends the connection."""
    frame_seconds: float = 10.0
    """Seconds from the first byte of an incoming frame to its NUL; then the connection ends."""
    queue: int = 256 * 1024
    """Bytes of replies that wait beyond the socket's own buffer; who lets more wait is dropped."""
    connections: int = 1200
    """Connections of one uid; further ones are closed when accepted."""
    accept_pause: float = 1.0
    """Seconds without accepting after this process ran out of descriptors or memory."""


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

    Reading ends once, with end of file, a broken limit, or `end`; then `on_end` is called. What had arrived
    before is still handed out and can still be replied to.
    """

    def __init__(self, sock: socket.socket, limits: Limits, on_end: Callable[[], None]) -> None:
        self.sock, self.limits, self.on_end = sock, limits, on_end
        self.ended = False
        self._loop = asyncio.get_running_loop()
        self._frames, self._received = Frames(limits.frame), deque[bytes]()
        self._queue, self._queued = deque[tuple[memoryview, Sequence[int]]](), 0
        self._deadline: asyncio.TimerHandle | None = None
        self._arrived, self._drained = asyncio.Event(), asyncio.Event()
        self._drained.set()
        self._loop.add_reader(sock, self._readable)

    async def receive(self) -> bytes | None:
        """Return the next frame, once all that was sent is with the kernel; None after the last one."""
        await self._drained.wait()
        while not self._received and not self.ended:
            self._arrived.clear()
            self._loop.add_reader(self.sock, self._readable)
            await self._arrived.wait()
        return self._received.popleft() if self._received else None

    def send(self, frame: bytes, fds: Sequence[int] = ()) -> None:
        """Queue a frame, NUL included, and close `fds` when it is sent or cannot be.

        The first byte carries the descriptors, and no byte of another frame comes with it: sd-varlink attributes
        what it receives to the first frame in its buffer.
        """
        if self._queued > self.limits.queue:
            close_all(fds)
            return self._abandon()
        self._queue.append((memoryview(frame), fds))
        self._queued += len(frame)
        if len(self._queue) == 1:
            self._writable()

    def finish(self) -> None:
        """Take what has arrived by now and read no more."""
        if not self.ended:
            self._readable()
            self._end()

    def close(self) -> None:
        """Drop what is still queued and close the socket."""
        self._abandon()
        self.sock.close()

    def _readable(self) -> None:
        """Read once, unless this client is ahead of us: then it waits in its socket's buffer.

        A plain recv: the kernel drops the descriptors that nobody asked for, and they never become ours.
        """
        if self._received:
            self._loop.remove_reader(self.sock)
            return
        try:
            data = self.sock.recv(self.limits.frame)
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
        """Give an unfinished frame its deadline when it begins; frames that came whole cost no timer."""
        if self._deadline and self._received:
            self._deadline.cancel()
            self._deadline = None
        if self._frames.partial and not self._deadline:
            self._deadline = self._loop.call_later(self.limits.frame_seconds, self._late)

    def _late(self) -> None:
        """End the reading if it is the client that is late, and not we with the frames before."""
        self._deadline = None
        if self._received:
            self._time_partial()
        else:
            self._end()

    def _end(self) -> None:
        if self.ended:
            return
        self.ended = True
        self._loop.remove_reader(self.sock)
        if self._deadline:
            self._deadline.cancel()
        self._arrived.set()
        self.on_end()

    def _writable(self) -> None:
        """Write as much as the socket takes; the loop calls again for the rest."""
        try:
            while self._queue:
                frame, fds = self._queue[0]
                sent = socket.send_fds(self.sock, [frame], fds) if fds else self.sock.send(frame)
                close_all(fds)
                self._queued -= sent
                self._queue[0] = (frame[sent:], ())
                if sent == len(frame):
                    self._queue.popleft()
        except BlockingIOError:
            if self._drained.is_set():
                self._drained.clear()
                self._loop.add_writer(self.sock, self._writable)
        except OSError:
            self._abandon()
        else:
            if not self._drained.is_set():
                self._drained.set()
                self._loop.remove_writer(self.sock)

    def _abandon(self) -> None:
        """Give the client up: nothing more is read, handed out or written."""
        self._received.clear()
        for _, fds in self._queue:
            close_all(fds)
        self._queue.clear()
        self._queued = 0
        self._loop.remove_writer(self.sock)
        self._drained.set()
        self.sock.shutdown(socket.SHUT_RDWR)
        self._end()


def close_all(fds: Iterable[int]) -> None:
    """Close each of the descriptors."""
    for fd in fds:
        os.close(fd)
