"""The door to the other end of a Unix socket: the process that connected, and the groups it had then."""

import ctypes
import errno
import os
import select
import socket
import struct

SO_PEERGROUPS = 59
SO_PEERPIDFD = 77
"""Socket options of Linux 4.13 and 6.5 that Python has no names for (asm-generic/socket.h)."""

GONE = {errno.ESRCH, errno.EINVAL, errno.ENODATA}
"""What SO_PEERPIDFD and pidfd_open answer for a process that has ended, each in some version (net/core/sock.c)."""

MOST_GROUPS = 65536
"""NGROUPS_MAX (linux/limits.h)."""


def groups(sock: socket.socket) -> tuple[int, ...]:
    """Return the supplementary groups that the peer had when it connected.

    Through ctypes, because Python's getsockopt takes no more than 1024 bytes, 256 groups.

    Raises:
        OSError: the kernel does not tell.
    """
    size = ctypes.c_uint(4 * MOST_GROUPS)
    buffer = ctypes.create_string_buffer(size.value)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.getsockopt(sock.fileno(), socket.SOL_SOCKET, SO_PEERGROUPS, buffer, ctypes.byref(size)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return struct.unpack(f"{size.value // 4}I", buffer.raw[: size.value])


def pidfd(sock: socket.socket, pid: int) -> int | None:
    """Return a pidfd of the process that connected, the caller's to close; None when it has ended.

    Before Linux 6.5 it is that of the process that has its pid now; one of another user is not taken for it.

    Raises:
        OSError: it cannot be told, as when we have too many descriptors.
    """
    try:
        found = _pidfd(sock, pid)
    except OSError as error:
        if error.errno in GONE:
            return None
        raise
    if has_ended(found):
        os.close(found)
        return None
    return found


def _pidfd(sock: socket.socket, pid: int) -> int:
    try:
        return sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise
    found = os.pidfd_open(pid)
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    if uid not in (0, *_uids(pid)):  # root may have become anybody since
        os.close(found)
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
    return found


def _uids(pid: int) -> list[int]:
    """Return the user ids of a process: real, effective, saved, of the file system; none of one that has ended."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as status:
            return next(list(map(int, line.split()[1:])) for line in status if line.startswith("Uid:"))
    except (FileNotFoundError, ProcessLookupError):
        return []


def has_ended(pidfd: int) -> bool:
    """Tell whether the process of a pidfd has ended: it is readable then (pidfd_open(2))."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
