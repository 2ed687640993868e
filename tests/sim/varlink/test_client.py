"""The blocking client, which the launcher has."""

import errno
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from enclave_cli.client import CallError, Client, Unavailable
from tests.sim.varlink.example import NAME, PATIENCE, Running, listen


def test_client_calls_fails_and_streams(service: Running) -> None:
    with Client(service.path) as client:
        assert client.call(f"{NAME}.Ping", {"text": "x" * 60_000}) == {"text": "x" * 60_000}
        with pytest.raises(CallError) as failed:
            client.call(f"{NAME}.Fail")
        assert (failed.value.name, failed.value.parameters) == (f"{NAME}.TooLate", {"by": 3})
        assert client.call(f"{NAME}.Ping", {"text": "after"}) == {"text": "after"}
        assert list(client.stream(f"{NAME}.Count", {"to": 3})) == [{"number": n} for n in range(3)]


def test_client_gives_a_stream_up(service: Running) -> None:
    stream = Client(service.path).stream(f"{NAME}.Watch")
    assert next(stream) == {"number": 0}
    stream.close()
    assert [service.event(), service.event()] == ["watching", "unwatched"]


@pytest.mark.parametrize("make", [os.pipe, socket.socketpair], ids=["pipe", "socket"])
def test_client_gives_a_stream_up_that_nobody_reads_any_more(make: Callable[[], Any], service: Running) -> None:
    """Without a reply that could not be written."""
    reader, writer = (end if isinstance(end, int) else end.detach() for end in make())
    client = Client(service.path)
    stream = client.stream(f"{NAME}.Watch", output=writer)
    assert next(stream) == {"number": 0}
    service.go()
    assert next(stream) == {"number": 1}, "a reader that is there changes nothing"
    os.close(reader)
    with ThreadPoolExecutor() as threads, suppress(OSError):
        third = threads.submit(next, stream)
        wait([third], PATIENCE)
        client.sock.shutdown(socket.SHUT_RDWR)  # for one that waits on; that of one that was given up is closed
    assert isinstance(third.exception(), BrokenPipeError)
    os.close(writer)
    assert [service.event(), service.event()] == ["watching", "unwatched"]


def test_client_does_not_wait_for_replies_that_came_together(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    reader, writer = os.pipe()
    with listen(path) as listener:
        client = Client(path)
        service, _ = listener.accept()
        with service, ThreadPoolExecutor() as threads:
            service.sendall(b'{"continues": true}\0{"continues": true}\0{}\0')
            replies = threads.submit(list, client.stream("a.b", output=writer))
            try:
                assert replies.result(PATIENCE) == [{}, {}, {}]
            finally:
                service.shutdown(socket.SHUT_RDWR)
    os.close(reader)
    os.close(writer)


def test_client_holds_no_descriptors_of_a_stream(service: Running) -> None:
    client = Client(service.path)
    for answer in client.stream(f"{NAME}.Deal"):
        assert answer == {"fd": 0}
        assert len(client._fds) == 1


def test_client_waits_for_the_first_reply_of_a_stream_only_so_long(service: Running) -> None:
    stream = Client(service.path, timeout=0.1).stream(f"{NAME}.Watch")
    assert next(stream) == {"number": 0}
    with ThreadPoolExecutor() as threads:
        second = threads.submit(next, stream)
        for _ in range(3):
            with pytest.raises(Unavailable) as silent:
                Client(service.path, timeout=0.1).call(f"{NAME}.Wait")
            assert silent.value.errno == errno.ETIMEDOUT
        service.go()  # by now, more than the limit has passed for the stream as well
        assert second.result(PATIENCE) == {"number": 1}
    stream.close()


def test_client_says_why_there_is_no_service(tmp_path: Path, service: Running) -> None:
    missing, dead = tmp_path / "missing", tmp_path / "dead"
    listen(str(dead)).close()
    for path, number in ((missing, errno.ENOENT), (dead, errno.ECONNREFUSED), (tmp_path, errno.ECONNREFUSED)):
        with pytest.raises(Unavailable) as failed:
            Client(str(path))
        assert failed.value.errno == number
        assert failed.value.filename == str(path)
        assert os.strerror(number) in str(failed.value)


@pytest.mark.parametrize(
    ("answer", "number"),
    [(b"", errno.ECONNRESET), (b'{"half', errno.ECONNRESET), (b"garbage\0", errno.EPROTO), (b"[1]\0", errno.EPROTO)],
)
def test_client_believes_no_broken_service(tmp_path: Path, answer: bytes, number: int) -> None:
    path = str(tmp_path / "socket")
    with listen(path) as listener:
        client = Client(path)
        service, _ = listener.accept()
        with service:
            service.sendall(answer)
            service.shutdown(socket.SHUT_WR)
            with pytest.raises(Unavailable) as failed:
                client.call("a.b")
        assert failed.value.errno == number
        assert client.sock.fileno() == -1


def test_client_waits_for_room_in_the_backlog(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        with Client(path):
            with pytest.raises(Unavailable) as full:
                Client(path, timeout=0.01)
            assert full.value.errno == errno.ETIMEDOUT
