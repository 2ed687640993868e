"""Hostile bytes: what is no call ends its own connection only."""

import contextlib
import itertools
import json
import socket
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ali_enclaves_allocator.server.wire import Frames, FrameTooLong
from tests.sim.varlink.example import PATIENCE, Running, assert_serves, ending, frame, ping, reply

HOSTILE = {
    "empty": b"\0",
    "garbage": b"GET / HTTP/1.1\r\n\r\n\0",
    "half": b'{"method":\0',
    "array": b"[1]\0",
    "number": b"1\0",
    "null": b"null\0",
    "two objects": b"{}{}\0",
    "no method": b'{"parameters":{}}\0',
    "method type": b'{"method":1}\0',
    "parameters type": b'{"method":"a.b","parameters":[]}\0',
    "oneway type": b'{"method":"a.b","oneway":"yes"}\0',
    "more type": b'{"method":"a.b","more":1}\0',
    "oneway and more": frame("Watch", more=True, oneway=True),
    "invalid UTF-8": b'{"method":"\xff\xfe"}\0',
    "lone surrogate": b'{"method":"\\ud800"}\0',
    "NaN": b'{"method":"a.b","parameters":{"a":NaN}}\0',
    "long number": b'{"method":"a.b","parameters":{"a":' + b"1" * 60_000 + b"}}\0",
    "deep arrays": b"[" * 30_000 + b"]" * 30_000 + b"\0",
    "deep objects": b'{"method":"a.b","parameters":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001 + b"\0",
    "too long": ping("x" * 65_536),
    "too long, no end": b"x" * 65_537,
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_no_call_ends_its_own_connection_only(
    start: Callable[..., Running], data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    service = start(frame_seconds=3600)
    other = service.connect()
    client = service.connect()
    client.sendall(ping("before") + data)
    assert ending(client) == b'{"parameters":{"text":"before"}}\0'
    other.sendall(ping("after"))
    assert reply(other) == {"parameters": {"text": "after"}}
    assert caplog.messages == []


def test_all_replies_before_it_arrive(start: Callable[..., Running]) -> None:
    """Also those that the socket cannot take at once."""
    service = start(sent=1)
    client = service.connect()
    client.sendall(ping("x" * 60_000) + b"garbage\0")
    assert ending(client).count(b"\0") == 1


def test_a_frame_may_be_as_long_as_the_limit(service: Running) -> None:
    client = service.connect()
    call = ping("x" * (65_537 - len(ping(""))))
    assert len(call) == 65_537
    client.sendall(call)
    assert len(reply(client)["parameters"]["text"]) == 65_537 - len(ping(""))


def test_fields_of_later_versions_are_ignored(service: Running) -> None:
    client = service.connect()
    client.sendall(frame("Ping", {"text": "x"}, trace={"id": 1}))
    assert reply(client) == {"parameters": {"text": "x"}}


def test_no_bytes_break_the_server(service: Running, caplog: pytest.LogCaptureFixture) -> None:
    pieces = st.one_of(st.binary(), st.sampled_from([*HOSTILE.values(), ping("x"), frame("Fail")]))

    @settings(max_examples=200)
    @given(st.lists(pieces, max_size=5))
    def talk(sent: list[bytes]) -> None:
        with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.settimeout(PATIENCE)
            client.connect(service.path)
            for data in sent:
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            for answer in ending(client).split(b"\0")[:-1]:
                assert json.loads(answer).keys() <= {"parameters", "error"}

    talk()
    assert_serves(service)
    assert caplog.messages == []


@given(st.lists(st.binary(max_size=5).map(lambda data: data.replace(b"\0", b"")), max_size=10), st.data())
def test_frames_do_not_depend_on_how_the_bytes_were_chunked(sent: list[bytes], data: st.DataObject) -> None:
    """Nor does the frame that is too long, which ends them."""
    limit = 3
    stream = b"\0".join([*sent, b""]) + data.draw(st.binary(max_size=5).map(lambda rest: rest.replace(b"\0", b"")))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    chunks = [stream[start:end] for start, end in itertools.pairwise([0, *cuts, len(stream)])]
    frames, got, too_long = Frames(limit), list[bytes](), False
    try:
        for chunk in chunks:
            got.extend(frames.feed(chunk))
    except FrameTooLong:
        too_long = True
    whole = stream.split(b"\0")
    good = list(itertools.takewhile(lambda piece: len(piece) <= limit, whole))
    assert got == (good if too_long else whole[:-1])
    assert too_long == (len(good) < len(whole))
    assert too_long or frames.partial == whole[-1]
