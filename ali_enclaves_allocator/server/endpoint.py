"""The socket's life: bound once, handed from one daemon to the next, answered by the Varlink server."""

import asyncio
import json
import os
import socket
from pathlib import Path

from ali_enclaves_allocator import __version__
from ali_enclaves_allocator.server.interface import NAME
from ali_enclaves_allocator.server.service import Service
from ali_enclaves_allocator.server.varlink import Server

BACKLOG = 4096
"""Clients that may wait while the daemon starts; the kernel caps it at net.core.somaxconn."""

ANSWER_BYTES = 16 << 20
"""How long an answer may be, on the largest machine."""

ANSWER_SECONDS = 10.0
"""How long the daemon may take to answer itself."""


class Endpoint:
    """The listening socket of a service.

    One that was inherited is of no use when somebody removed its file: no client could find it.
    """

    def __init__(self, path: Path, service: Service, inherited: socket.socket | None) -> None:
        self._path = path
        self._service = service
        if inherited and not path.is_socket():
            inherited.close()
            inherited = None
        self.listener = inherited or _bind(path)
        self._server = Server(
            self.listener,
            [service.interface()],
            vendor="ali-enclaves",
            product="ali-enclaves-allocator",
            version=__version__,
            url="",
            own_pid=os.getpid(),
        )

    async def open(self) -> None:
        """Start to answer."""
        await self._server.start()

    async def close(self, keep: bool) -> None:
        """Finish what was accepted. Unless it is kept for a successor, the socket is gone afterwards."""
        await self._server.close()
        self.listener.close()
        if not keep:
            self._path.unlink(missing_ok=True)

    async def answers(self) -> bool:
        """Tell whether a client that connects now is answered."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = await asyncio.open_unix_connection(self._path, limit=ANSWER_BYTES)
                try:
                    writer.write(json.dumps({"method": f"{NAME}.GetPool"}).encode() + b"\0")
                    return b'"error"' not in await reader.readuntil(b"\0")
                finally:
                    writer.close()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return False


def listens(path: Path) -> bool:
    """Tell whether somebody accepts connections at a socket, or systemd keeps them for who will."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def _bind(path: Path) -> socket.socket:
    """Bind a new socket that anyone may connect to. The ledger's lock is held, so a file that is there is dead."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    listener.bind(str(path))
    os.chmod(path, 0o666)
    listener.listen(BACKLOG)
    return listener
