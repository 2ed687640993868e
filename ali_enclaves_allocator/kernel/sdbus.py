"""Calls of systemd's manager over D-Bus, by libsystemd's own library for it (sd-bus(3)); no program is run for them.

They go through the manager's private socket, as those of systemctl(1) do when root runs it: no D-Bus daemon takes part,
and what the manager tells of its jobs comes without being asked for (`bus_foreach_bus` in systemd's dbus.c). Messages
are read one by one, because sd_bus_call(3) of systemd 239 to 252 ends with any signal that a thread gets.
"""

import ctypes
import errno
import os
import time
from typing import Self

ADDRESS = "unix:path=/run/systemd/private"
MANAGER = "org.freedesktop.systemd1"
"""The name that the manager's objects answer to, and the first part of their interfaces' names."""

ANSWER_S = 60.0
"""How long a call and its job may take; a manager that hangs must not hang the allocator, which can ask again."""

AWAY_S = 5.0
"""How long nobody may listen: the manager makes its socket anew when it executes itself (daemon-reexec)."""
AWAY = (errno.ENOENT, errno.ECONNREFUSED, errno.EAGAIN)

DONE = ("done", "skipped")
"""The results of a job with which all is as it was asked for (JobRemoved in org.freedesktop.systemd1(5))."""

Argument = str | int | ctypes.c_uint64
"""What a message is made of: text, a number of at most 32 bits, or one of 64."""

_library = ctypes.CDLL("libsystemd.so.0")


class _Error(ctypes.Structure):
    """`sd_bus_error`, as sd-bus.h has it."""

    _fields_ = (("name", ctypes.c_char_p), ("message", ctypes.c_char_p), ("_need_free", ctypes.c_int))


_library.sd_bus_message_get_error.restype = ctypes.POINTER(_Error)


class Message(ctypes.c_void_p):
    """A `sd_bus_message`, which goes with its object."""

    def __del__(self) -> None:
        _library.sd_bus_message_unref(self)

    def text(self, signature: str = "s") -> str:
        """Return the text (`s`), the path (`o`), or the text in a variant (`v`) that comes next in the message.

        Raises:
            OSError: something else comes there.
        """
        text = ctypes.c_char_p()
        contents = (b"s",) if signature == "v" else ()
        _check(_library.sd_bus_message_read(self, signature.encode(), *contents, ctypes.byref(text)))
        return (text.value or b"").decode()

    def number(self) -> int:
        """Return the number of 32 bits that comes next in the message."""
        number = ctypes.c_uint32()
        _check(_library.sd_bus_message_read(self, b"u", ctypes.byref(number)))
        return number.value

    def enter(self, kind: str, contents: str) -> None:
        """Go into a container, such as a variant (`v`) or a structure (`r`)."""
        _check(_library.sd_bus_message_enter_container(self, ctypes.c_char(kind.encode()), contents.encode()))


class Manager:
    """A connection to the manager, for one thread and a few calls, all of which end within ANSWER_S.

    Raises:
        OSError: from whatever is asked: what the manager says (EIO), that it cannot be reached, or that it does not
            answer (TimeoutError) or went away before it did (ConnectionResetError).
    """

    def __init__(self) -> None:
        self._bus = ctypes.c_void_p()
        self._deadline = time.monotonic() + ANSWER_S
        self._results: dict[str, str] = {}

    def __enter__(self) -> Self:
        patience = time.monotonic() + AWAY_S
        while (code := self._connect()) in AWAY and time.monotonic() < patience:
            time.sleep(0.05)
        if code:
            raise OSError(code, f"systemd cannot be reached ({ADDRESS}): {os.strerror(code)}")
        return self

    def _connect(self) -> int:
        """Try to connect. Return the error number, or 0."""
        _check(_library.sd_bus_new(ctypes.byref(self._bus)))
        _check(_library.sd_bus_set_address(self._bus, ADDRESS.encode()))
        code = int(_library.sd_bus_start(self._bus))
        if code < 0:
            self._close()
        return max(0, -code)

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        _library.sd_bus_close(self._bus)
        _library.sd_bus_unref(self._bus)

    def call(self, member: str, signature: str = "", *arguments: Argument) -> Message:
        """Call a method of the manager with arguments as sd_bus_message_append(3) takes them. Return its reply."""
        return self._reply("/org/freedesktop/systemd1", f"{MANAGER}.Manager", member, signature, *arguments)

    def get(self, path: str, interface: str, name: str) -> Message:
        """Get a property, a variant, of an object of the manager's."""
        properties = "org.freedesktop.DBus.Properties"
        return self._reply(path, properties, "Get", "ss", f"{MANAGER}.{interface}", name)

    def run_job(self, member: str, signature: str, unit: str, *arguments: Argument) -> None:
        """Have the manager begin a job for a unit, and return when that has come to its end."""
        job = self.call(member, signature, unit, *arguments).text("o")
        while job not in self._results:
            self._next()
        if (result := self._results[job]) not in DONE:
            raise OSError(errno.EIO, f"systemd: the job of {unit} ended so: {result}; see: journalctl -u '{unit}'")

    def _reply(self, path: str, interface: str, member: str, signature: str, *arguments: Argument) -> Message:
        """Call a method, and return its reply."""
        call, cookie = Message(), ctypes.c_uint64()
        names = (MANAGER, path, interface, member)
        _check(_library.sd_bus_message_new_method_call(self._bus, ctypes.byref(call), *map(str.encode, names)))
        if signature:
            values = (value.encode() if isinstance(value, str) else value for value in arguments)
            _check(_library.sd_bus_message_append(call, signature.encode(), *values))
        _check(_library.sd_bus_send(self._bus, call, ctypes.byref(cookie)))
        reply = self._next()
        while _replied_to(reply) != cookie.value:
            reply = self._next()
        if _library.sd_bus_message_is_method_error(reply, None):
            refused = _library.sd_bus_message_get_error(reply).contents
            raise OSError(errno.EIO, f"systemd: {(refused.message or refused.name).decode()}")
        return reply

    def _next(self) -> Message:
        """Wait for the next message and return it; note the result of a job that it tells."""
        message = Message()
        while not message:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(errno.ETIMEDOUT, f"no answer from systemd in {ANSWER_S:g} s")
            code = _library.sd_bus_process(self._bus, ctypes.byref(message))
            if -code in (errno.ECONNRESET, errno.ENOTCONN):
                raise ConnectionResetError(errno.ECONNRESET, "systemd went away before it answered")
            if _check(code):
                continue
            waited = _library.sd_bus_wait(self._bus, ctypes.c_uint64(int(left * 1_000_000)))
            if waited not in (-errno.EINTR, -errno.EAGAIN):
                _check(waited)
        if _library.sd_bus_message_is_signal(message, f"{MANAGER}.Manager".encode(), b"JobRemoved"):
            self._note(message)
        return message

    def _note(self, removed: Message) -> None:
        """Note the result of a job that has ended: `uoss`, its number, its path, its unit, its result."""
        number, job, unit, result = ctypes.c_uint32(), ctypes.c_char_p(), ctypes.c_char_p(), ctypes.c_char_p()
        places = map(ctypes.byref, (number, job, unit, result))
        _check(_library.sd_bus_message_read(removed, b"uoss", *places))
        self._results[(job.value or b"").decode()] = (result.value or b"").decode()


def _replied_to(message: Message) -> int:
    """Return the number of the call that a message replies to; 0 for none."""
    cookie = ctypes.c_uint64()
    _library.sd_bus_message_get_reply_cookie(message, ctypes.byref(cookie))
    return cookie.value


def _check(code: int) -> int:
    """Return what sd-bus returned.

    Raises:
        OSError: it was an error.
    """
    if code < 0:
        raise OSError(-code, f"systemd: {os.strerror(-code)}")
    return code
