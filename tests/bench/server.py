"""A server of GetPool in a process of its own: ours on the simulated kernel, or a peer's that serves the same reply.

`python -m tests.bench.server ours DIRECTORY`, or `varlink`, `asyncvarlink`; or `bare`, no server but the floor: a loop
that reads whatever comes and writes the same bytes. A peer finds in the directory the reply and the interface. Each
listens on `allocator.sock` there and says "ready". The peers get their easiest task: the reply is a dictionary that
stands, which neither of them checks against the interface.
"""

import asyncio
import json
import logging
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from enclave_cli.client import Client

ROOT = Path(__file__).parents[2]
NAME = "io.ali-enclaves.Allocator"
PEERS = ("varlink", "asyncvarlink")
FLOOR = "bare"


@contextmanager
def serving(kind: str, reply: dict[str, Any] | None = None) -> Iterator[str]:
    """Run a server; yield the path of its socket."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        interface = (ROOT / "docs" / f"{NAME}.varlink").read_text()
        Path(directory, f"{NAME}.varlink").write_text(interface)
        Path(directory, "reply.json").write_text(json.dumps(reply))
        command = [sys.executable, "-m", "tests.bench.server", kind, directory]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as server:
            assert server.stdout
            try:
                if server.stdout.readline() != b"ready\n":
                    raise ChildProcessError(f"the server {kind} did not come up")
                yield f"{directory}/allocator.sock"
            finally:
                server.kill()


def reply_of(path: str) -> dict[str, Any]:
    """Ask a server once."""
    with Client(path) as client:
        return client.call(f"{NAME}.GetPool")


def serve_ours(directory: Path) -> None:
    """Serve the pool of the documented file."""
    from ali_enclaves_allocator.change.ledger import Ledger
    from ali_enclaves_allocator.daemon import Daemon, Paths
    from tests.machines import GUEST_2X2X2
    from tests.sim.host import BOOT_ID, Host

    logging.disable(logging.CRITICAL)
    host = Host(GUEST_2X2X2, directory)
    host.configure(memory_mib=1024, cpu_count=2)

    async def serve() -> None:
        await Daemon(Paths(host.config_path, directory), host.simulation.kernel, Ledger(directory, BOOT_ID)).start()
        print("ready", flush=True)
        await asyncio.Event().wait()

    asyncio.run(serve())


def serve_varlink(directory: Path) -> None:
    """Serve by the library `varlink`, one thread for each client, as it offers it."""
    import varlink  # type: ignore[import-untyped]

    reply = json.loads((directory / "reply.json").read_text())
    service = varlink.Service(interface_dir=str(directory))

    @service.interface(NAME)
    class Allocator:
        def GetPool(self) -> Any:
            return reply

    class Handler(varlink.RequestHandler):  # type: ignore[misc]
        pass

    Handler.service = service
    server = varlink.ThreadingServer(f"unix:{directory}/allocator.sock", Handler)
    print("ready", flush=True)
    server.serve_forever()


def serve_asyncvarlink(directory: Path) -> None:
    """Serve by the library `asyncvarlink`, by a method that is not a coroutine, which is its shortest way."""
    import asyncvarlink

    pool = json.loads((directory / "reply.json").read_text())["pool"]

    class Allocator(asyncvarlink.VarlinkInterface, name=NAME):
        @asyncvarlink.varlinkmethod(return_parameter="pool", allow_foreign=True)
        def GetPool(self) -> Any:
            return pool

    registry = asyncvarlink.VarlinkInterfaceRegistry()
    registry.register_interface(Allocator())

    async def serve() -> None:
        server = await asyncvarlink.create_unix_server(registry.protocol_factory, f"{directory}/allocator.sock")
        print("ready", flush=True)
        await server.serve_forever()

    asyncio.run(serve())


def serve_bare(directory: Path) -> None:
    """Answer whatever comes with the same bytes."""
    frame = json.dumps({"parameters": json.loads((directory / "reply.json").read_text())}).encode() + b"\0"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{directory}/allocator.sock")
    listener.listen(socket.SOMAXCONN)
    poll, clients = select.epoll(), {listener.fileno(): listener}
    poll.register(listener, select.EPOLLIN)
    print("ready", flush=True)
    while True:
        for fd, _ in poll.poll():
            if fd == listener.fileno():
                client, _ = listener.accept()
                clients[client.fileno()] = client
                poll.register(client, select.EPOLLIN)
            elif clients[fd].recv(4096):
                clients[fd].send(frame)
            else:
                clients.pop(fd).close()


SERVERS = {"ours": serve_ours, "varlink": serve_varlink, "asyncvarlink": serve_asyncvarlink, "bare": serve_bare}

if __name__ == "__main__":
    SERVERS[sys.argv[1]](Path(sys.argv[2]))
