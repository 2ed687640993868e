"""A systemd manager at a private socket, by another D-Bus library: it does nothing, and keeps what it was asked for."""

import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Self

from jeepney import HeaderFields, Message, Parser, new_error, new_method_return, new_signal
from jeepney.wrappers import DBusAddress

MANAGER = DBusAddress("/org/freedesktop/systemd1", interface="org.freedesktop.systemd1.Manager")
JOB = "/org/freedesktop/systemd1/job/7"
WELCOME = b"DATA\r\nOK 0123456789abcdef0123456789abcdef\r\nAGREE_UNIX_FD\r\n"

Answer = Callable[[Message], Iterable[Message]]


@dataclass
class Call:
    """A call that the manager got."""

    path: str
    name: str
    signature: str
    arguments: tuple[Any, ...]


def returned(call: Message, signature: str = "", *body: Any) -> Message:
    """Return the reply to a call."""
    return new_method_return(call, signature or None, body)


def refused(call: Message, *text: str) -> Message:
    """Return an error, with a text or without one."""
    return new_error(call, "org.freedesktop.systemd1.NoSuchUnit", "s" if text else None, text)


def removed(result: str, job: str = JOB, unit: str = "a.scope") -> Message:
    """Return the signal that a job has ended."""
    return new_signal(MANAGER, "JobRemoved", "uoss", (7, job, unit, result))


def job(result: str = "done") -> Answer:
    """Answer with a job, which ends with that result."""
    return lambda call: [returned(call, "o", JOB), removed(result)]


@dataclass
class Manager:
    """The manager at a path: what it answers to each method, and what it was called with."""

    path: Path
    answers: dict[str, Answer]
    welcome: bytes = WELCOME
    calls: list[Call] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):  # the listener is shut down
            while True:
                client, _ = self._listener.accept()
                with client, suppress(ConnectionError):
                    self._talk(client)

    def _talk(self, client: socket.socket) -> None:
        """Let a client in, whoever it is, and answer it until it goes. It begins unasked, as sd-bus does."""
        greeting = b""
        while b"BEGIN\r\n" not in greeting:
            greeting += _received(client)
        client.sendall(self.welcome)
        parser, serials = Parser(), count(1)
        while True:
            parser.add_data(_received(client))
            while (call := parser.get_next_message()) is not None:
                for message in self._answer(call):
                    client.sendall(message.serialise(next(serials)))

    def _answer(self, call: Message) -> Iterable[Message]:
        fields = call.header.fields
        name = fields[HeaderFields.member]
        self.calls.append(Call(fields[HeaderFields.path], name, fields.get(HeaderFields.signature, ""), call.body))
        return self.answers[name](call)


def _received(client: socket.socket) -> bytes:
    """Return what a client sends.

    Raises:
        ConnectionError: it has gone.
    """
    if not (data := client.recv(4096)):
        raise ConnectionError
    return data
