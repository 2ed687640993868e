"""Who is at the other end of a socket, with and without SO_PEERPIDFD (Linux 6.5)."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ali_enclaves_allocator.kernel import peers

CONNECT = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); sys.stdin.read()"
NO_SUCH_OPTION = 9999


@pytest.fixture(params=["by the kernel", "by pid"])
def connected(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[socket.socket, "subprocess.Popen[bytes]"]]:
    """A process that connected, and our end of it."""
    if request.param == "by pid":
        monkeypatch.setattr(peers, "SO_PEERPIDFD", NO_SUCH_OPTION)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        process = subprocess.Popen([sys.executable, "-c", CONNECT, str(tmp_path / "socket")], stdin=subprocess.PIPE)
        with process, listener.accept()[0] as sock:
            yield sock, process
            process.kill()


def test_the_pidfd_tells_when_the_process_ends(
    connected: tuple[socket.socket, "subprocess.Popen[bytes]"],
) -> None:
    sock, process = connected
    found = peers.pidfd(sock, process.pid)
    assert found is not None
    assert not peers.has_ended(found)
    process.kill()
    process.wait()
    assert peers.has_ended(found)
    os.close(found)
    assert peers.pidfd(sock, process.pid) is None, "it has ended, and is not looked for by its pid"


def test_a_process_that_nobody_waited_for_has_ended(
    connected: tuple[socket.socket, "subprocess.Popen[bytes]"],
) -> None:
    sock, process = connected
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert peers.pidfd(sock, process.pid) is None


def test_the_kernel_is_not_asked_by_pid_where_it_knows_the_process(
    connected: tuple[socket.socket, "subprocess.Popen[bytes]"],
) -> None:
    sock, process = connected
    process.kill()
    process.wait()
    found = peers.pidfd(sock, os.getpid())  # as if the pid were somebody else's by now
    if found is not None:
        os.close(found)
    assert (found is None) == (peers.SO_PEERPIDFD != NO_SUCH_OPTION)


BECOME = "import os, sys; os.setuid(int(sys.argv[2]))"
"""The interpreter may lie where no other user reaches it: so who runs it becomes that user afterwards."""


@pytest.mark.parametrize("user", [0, 65534])
def test_who_has_a_pid_now_is_not_taken_for_another_user(user: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who connected may have ended before we ask for its pid; root may have become another user since."""
    monkeypatch.setattr(peers, "SO_PEERPIDFD", NO_SUCH_OPTION)
    name = f"peers-{os.getpid()}"
    connect = CONNECT.replace("s.connect(sys.argv[1])", "s.connect(chr(0) + sys.argv[1])")
    wait = "print(flush=True); sys.stdin.read()"
    with socket.socket(socket.AF_UNIX) as listener, started(f"{BECOME}; {wait}", name, 65533) as other:
        assert other.stdout and other.stdout.readline() == b"\n"
        listener.bind(f"\0{name}")
        listener.listen()
        with started(f"{BECOME}; {connect}", name, user) as process, listener.accept()[0] as sock:
            found = [peers.pidfd(sock, pid) for pid in (process.pid, other.pid)]
            assert [fd is not None for fd in found] == [True, user == 0]
            for fd in filter(None, found):
                os.close(fd)


@contextmanager
def started(program: str, *arguments: object) -> "Iterator[subprocess.Popen[bytes]]":
    """Run a program in Python; it is killed at the end."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process
        process.kill()
