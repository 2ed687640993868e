"""Who is at the other end of a socket, with and without SO_PEERPIDFD (Linux 6.5)."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
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


@pytest.mark.parametrize("user", [0, 65534])
def test_who_has_a_pid_now_is_not_taken_for_another_user(user: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who connected may have ended before we ask for its pid; root may have become another user since."""
    monkeypatch.setattr(peers, "SO_PEERPIDFD", NO_SUCH_OPTION)
    name = f"\0peers-{os.getpid()}"
    program = [sys.executable, "-c", CONNECT.replace("sys.argv[1]", "'\\0' + sys.argv[1]"), name[1:]]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen()
        other = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, user=65533
        )
        process = subprocess.Popen(program, stdin=subprocess.PIPE, user=user)
        with other, process, listener.accept()[0] as sock:
            found = [peers.pidfd(sock, pid) for pid in (process.pid, other.pid)]
            assert [fd is not None for fd in found] == [True, user == 0]
            for fd in filter(None, found):
                os.close(fd)
            process.kill()
            other.kill()
