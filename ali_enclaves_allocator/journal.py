"""The journal: structured records that never make the daemon wait.

`systemd.journal.send` blocks in libsystemd while it holds the interpreter lock, so a stalled journald would stop
the whole daemon. JournalHandler keeps doing the work of a log handler; only its sender is ours.
"""

import logging
import os
import re
import socket
import struct
import sys
from typing import Any

from systemd.journal import JournalHandler

from ali_enclaves_allocator.model.events import RECORDS_DROPPED

JOURNAL_SOCKET = "/run/systemd/journal/socket"
FIELD_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
LONGEST_VALUE = 16 * 1024
"""Bytes of one field; a datagram must fit the socket's buffer."""


def start_logging(identifier: str) -> None:
    """Log to the journal when systemd connected standard error to it, to standard error itself when not."""
    handler: logging.Handler
    if "JOURNAL_STREAM" in os.environ:
        handler = JournalHandler(sender_function=Sender(), SYSLOG_IDENTIFIER=identifier)
    else:
        handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class Sender:
    """Sends records in the native journal protocol without waiting, and counts those the journal did not take.

    Protocol: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/
    """

    def __init__(self, path: str = JOURNAL_SOCKET) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self.dropped = 0

    def __call__(self, message: str, /, **fields: Any) -> None:
        """Send one record, after word of those dropped before it."""
        if self.dropped:
            text = f"the journal did not take {self.dropped} record{'s' * (self.dropped != 1)}"
            identifier = fields.get("SYSLOG_IDENTIFIER")
            if not self._send(text, PRIORITY="4", SYSLOG_IDENTIFIER=identifier, **RECORDS_DROPPED):
                self.dropped += 1
                return
            self.dropped = 0
        if not self._send(message, **fields):
            self.dropped += 1

    def _send(self, message: str, /, **fields: Any) -> bool:
        """Send one datagram. Return whether the journal took it."""
        record = b"".join(
            _field(name, value)
            for name, value in ({"MESSAGE": message} | fields).items()
            if FIELD_NAME.fullmatch(name) and value is not None
        )
        try:
            self._socket.sendto(record, self._path)
        except OSError:
            return False
        return True


def _field(name: str, value: Any) -> bytes:
    """Encode one field, its value with its length in front so that it may hold anything."""
    text = (value.hex if name == "MESSAGE_ID" else str(value)).encode(errors="replace")[:LONGEST_VALUE]
    return name.encode() + b"\n" + struct.pack("<Q", len(text)) + text + b"\n"
