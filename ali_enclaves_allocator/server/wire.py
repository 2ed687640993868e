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
    held: int = 16 * 1024 * 1024
    """Bytes, calls and replies, that wait for all connections of a uid; beyond it, only short calls are taken and
    nobody may let replies wait."""
    connections: int = 1200
    """Connections of one uid; further ones are closed when accepted."""
    all_connections: int = 12000
    """Connections of all uids; root's are accepted beyond it, so that nobody with many uids locks it out."""
    accept_pause: float = 1.0
    """Seconds without accepting after this process ran out of descriptors or memory."""


@dataclass
class Account:
    """What the connections of one uid take together."""

    connections: int = 0
    held: int = 0
    """Bytes of calls that are unfinished or not handled yet, and of replies not read yet."""


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

    A frame that nobody is ahead of is offered to `at_once` in the turn of the loop that read it, and is handed out by
    `receive` if that returns False: to wake a task costs as much as all else that a short answer takes.

    Reading ends once: at end of file, at a broken limit or with `finish`; then `on_end` is called. The frames
    that came before are still handed out and can still be replied to.
    """

    def __init__(
        self,
        sock: socket.socket,
        limits: Limits,
        account: Account,
        on_end: Callable[[], None],
        at_once: Callable[[bytes], bool] = lambda _: False,
    ) -> None:
        self.sock, self.limits, self.account, self.on_end, self.at_once = sock, limits, account, on_end, at_once
        self.ended = self._idle = False  # idle while somebody waits for the next frame
        self._paused = self._waiting = False  # reading, and for the socket to take more: the loop is asked only then
        self._loop = asyncio.get_running_loop()
        self._frames, self._received = Frames(limits.frame), deque[bytes]()
        self._queue = deque[tuple[bytearray, Sequence[int]]]()
        self._calls = self._replies = 0  # bytes, as in the account
        self._deadline: asyncio.TimerHandle | None = None
        self._arrived, self._drained = asyncio.Event(), asyncio.Event()
        self._drained.set()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, limits.sent)
        self._loop.add_reader(sock, self._readable)

    async def receive(self) -> bytes | None:
        """Return the next frame, or None after the last; a client that leaves its replies unread waits."""
        while not self._received and not self.ended:
            self._arrived.clear()
            self._idle = True
            await self._arrived.wait()
            self._idle = False
        if self._replies > self.limits.frame:
            await self.drained()
        if not self._received:
            return None
        frame = self._received.popleft()
        self._count(calls=-len(frame) - 1)
        if self._paused and not self._received and not self.ended:
            self._paused = False
            self._loop.add_reader(self.sock, self._readable)
        return frame

    async def drained(self) -> None:
        """Wait until all that was sent is with the kernel, or the client was given up."""
        await self._drained.wait()

    def send(self, frame: bytes, fds: Sequence[int] = ()) -> None:
        """Queue a frame, NUL included, and close `fds` when it is sent or cannot be.

        A frame leaves at once; while more calls wait to be answered, frames leave together at the loop's next turn.
        Those with descriptors leave alone, their first byte carrying them: sd-varlink takes what comes with a message
        for the first frame in it.
        """
        if self._replies > (0 if self._crowded() else self.limits.queue):
            close_all(fds)
            return self._abandon()
        idle = not self._queue
        if idle or self._queue[-1][1] or fds:
            self._queue.append((bytearray(), fds))
        self._queue[-1][0].extend(frame)
        self._count(replies=len(frame))
        if idle:
            self._drained.clear()
            if self._received:
                self._loop.call_soon(self._writable)
            else:
                self._writable()

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
            self._paused = True
            self._loop.remove_reader(self.sock)
            return self._stop_clock()
        try:
            data = self.sock.recv(RECEIVE_BYTES)
            self._count(calls=len(data))
            self._received.extend(self._frames.feed(data))
        except BlockingIOError:
            return
        except (OSError, FrameTooLong):
            data = b""
        if self._received:
            self._stop_clock()
            self._offer()
        if self._received:
            self._arrived.set()
        if not data:
            self._end()
        elif self._crowded() and self._calls > RECEIVE_BYTES:
            self._abandon()
        else:
            self._time_partial()

    def _offer(self) -> None:
        """Have the frames answered that can be at once, in their order, while the client reads its replies."""
        while self._idle and self._received and self._replies <= self.limits.frame:
            frame = self._received.popleft()
            self._count(calls=-len(frame) - 1)
            if not self.at_once(frame):
                self._count(calls=len(frame) + 1)
                return self._received.appendleft(frame)

    def _time_partial(self) -> None:
        """Give an unfinished frame its deadline when it begins; frames that come whole cost no timer."""
        if self._frames.partial and not self._deadline and not self.ended:
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
                self._count(replies=-sent)
        except BlockingIOError:
            self._waiting = True
            self._loop.add_writer(self.sock, self._writable)
        except OSError:
            self._abandon()
        else:
            self._stop_waiting()
            self._drained.set()

    def _abandon(self) -> None:
        """Give the client up: nothing more is read, handed out or written."""
        self._received.clear()
        for _, fds in self._queue:
            close_all(fds)
        self._queue.clear()
        self._count(-self._calls, -self._replies)
        self._stop_waiting()
        self._drained.set()
        self.sock.shutdown(socket.SHUT_RDWR)
        self._end()

    def _stop_waiting(self) -> None:
        """Ask no more when the socket takes something, if that was asked."""
        if self._waiting:
            self._waiting = False
            self._loop.remove_writer(self.sock)

    def _count(self, calls: int = 0, replies: int = 0) -> None:
        self._calls += calls
        self._replies += replies
        self.account.held += calls + replies

    def _crowded(self) -> bool:
        """Tell whether the connections of this uid hold too much together."""
        return self.account.held > self.limits.held


def close_all(fds: Iterable[int]) -> None:
    """Close each of the descriptors."""
    for fd in fds:
        os.close(fd)
