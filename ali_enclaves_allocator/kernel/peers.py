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

    Before Linux 6.5 it is that of the process that has its pid now.

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
    return os.pidfd_open(pid)


def has_ended(pidfd: int) -> bool:
    """Tell whether the process of a pidfd has ended: it is readable then (pidfd_open(2))."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
