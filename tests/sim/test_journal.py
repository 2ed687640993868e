"""The journal's sender: it never waits, counts what the journal did not take, and says so with the next record."""

import logging
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from systemd.journal import JournalHandler

from ali_enclaves_allocator.journal import Sender
from ali_enclaves_allocator.model.events import POOL_READY, RECORDS_DROPPED

PATIENCE = 10_000
"""Records of 4 KiB that no socket's buffer holds."""


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    """Return the journal's socket; what is sent waits in it until the test reads."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as server:
        server.bind(str(tmp_path / "socket"))
        yield server


def sender(journal: socket.socket) -> Sender:
    return Sender(journal.getsockname())


def fields(record: bytes) -> dict[str, str]:
    """Read a record as the protocol has it: each field a name, a length and so many bytes."""
    found = {}
    while record:
        name, _, rest = record.partition(b"\n")
        [length] = struct.unpack_from("<Q", rest)
        found[name.decode()] = rest[8 : 8 + length].decode()
        record = rest[8 + length + 1 :]
    return found


def taken(journal: socket.socket) -> list[dict[str, str]]:
    """Read all that waits, as a journal does that goes on."""
    found = []
    while True:
        try:
            found.append(fields(journal.recv(1 << 20)))
        except BlockingIOError:
            return found


def stall(send: Sender) -> int:
    """Send until the journal takes no more. Return how many it took."""
    for number in range(PATIENCE):
        send("x" * 4096)
        if send.dropped:
            return number
    pytest.fail("the socket took everything")


def test_a_record_has_its_fields_whatever_they_hold(journal: socket.socket) -> None:
    logger = logging.Logger("told")
    logger.addHandler(JournalHandler(sender_function=sender(journal), SYSLOG_IDENTIFIER="allocator"))
    logger.warning("two\nlines = %s", "one record", extra=POOL_READY)
    [record] = taken(journal)
    assert record["MESSAGE"] == "two\nlines = one record"
    assert record["MESSAGE_ID"] == POOL_READY["MESSAGE_ID"].hex
    assert (record["PRIORITY"], record["SYSLOG_IDENTIFIER"]) == ("4", "allocator")


def test_a_stalled_journal_is_not_waited_for_and_told_when_it_goes_on(journal: socket.socket) -> None:
    send = sender(journal)
    took = stall(send)
    for _ in range(6):
        send("lost")
    assert send.dropped == 7
    assert len(taken(journal)) == took
    send("hello again", SYSLOG_IDENTIFIER="allocator")
    word, record = taken(journal)
    assert word["MESSAGE"] == "the journal did not take 7 records"
    assert word["MESSAGE_ID"] == RECORDS_DROPPED["MESSAGE_ID"].hex
    assert word["SYSLOG_IDENTIFIER"] == "allocator"
    assert record["MESSAGE"] == "hello again"
    send("and again")
    assert [record["MESSAGE"] for record in taken(journal)] == ["and again"], "it is told once"


def test_a_journal_that_takes_the_word_and_not_the_record(journal: socket.socket) -> None:
    send = sender(journal)
    stall(send)
    taken(journal)
    send("x" * (1 << 14), **{f"FIELD_{number}": "x" * (1 << 14) for number in range(20)})
    assert [record["MESSAGE"] for record in taken(journal)] == ["the journal did not take 1 record"]
    assert send.dropped == 1, "a record that no datagram can hold"


def test_a_journal_that_is_stopped_and_comes_back(tmp_path: Path) -> None:
    send = Sender(str(tmp_path / "socket"))
    send("there is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as gone:
        gone.bind(str(tmp_path / "socket"))
    send("nobody has it open")
    assert send.dropped == 2
    (tmp_path / "socket").unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as back:
        back.bind(str(tmp_path / "socket"))
        send("here it is")
        assert [record["MESSAGE"] for record in taken(back)] == ["the journal did not take 2 records", "here it is"]
