"""The enclave's address on vsock (CID), and its sign of life."""

import errno
import fcntl
import os
import socket
import struct

from enclave_cli import failure, paths
from enclave_cli.failure import Failure

FIRST_CID = 4
"""1 is loopback, 2 the host; 3 is left to the one VM that everybody starts by hand."""

LAST_CID = 2**32 - 2
TRIES = 4096
VHOST_VSOCK_SET_GUEST_CID = 0x4008AF60

HEARTBEAT = b"\xb7"
HEARTBEAT_PORT = 0x80000000
"""The host's port for heartbeats is this plus the enclave's CID, so that launches do not wait for each other."""


def claim(cid: int) -> tuple[int, int]:
    """Claim `cid`, or a free one if it is 0; return a descriptor that holds it, and the CID. Raises Failure.

    The kernel gives a CID to one descriptor at a time, so launches never collide. It is for QEMU to inherit.
    """
    try:
        fd = os.open(paths.VHOST_VSOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise _lacks(error) from None
    for candidate in [cid] if cid else range(FIRST_CID, FIRST_CID + TRIES):
        try:
            fcntl.ioctl(fd, VHOST_VSOCK_SET_GUEST_CID, struct.pack("Q", candidate))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            os.close(fd)
            raise _lacks(error) from None
        return fd, candidate
    os.close(fd)
    got = f"CID {cid}" if cid else f"any CID from {FIRST_CID} to {FIRST_CID + TRIES - 1}"
    raise Failure(
        failure.POOL_REFUSED,
        f"cannot use {got}: taken by another VM; nothing was taken from the pool (see enclave-cli describe-enclaves)",
    )


def _lacks(error: OSError) -> Failure:
    hint, status = f"see {paths.VHOST_VSOCK}", failure.MACHINE_LACKS
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        hint = "modprobe vhost_vsock"
    elif error.errno in (errno.EACCES, errno.EPERM):
        hint, status = "join the group de: usermod -aG de USER, then log in again", failure.NOT_PERMITTED
    why = f"cannot use vsock: {paths.VHOST_VSOCK}: {error.strerror}; nothing was taken from the pool ({hint})"
    return Failure(status, why)


def listen(cid: int) -> socket.socket:
    """Return a socket that waits for the heartbeat of the enclave `cid`; before it starts. Raises Failure."""
    listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.bind((socket.VMADDR_CID_ANY, HEARTBEAT_PORT | cid))
        listener.listen(8)
    except OSError as error:
        listener.close()
        raise Failure(
            failure.MACHINE_LACKS,
            f"cannot wait for the heartbeat on vsock port {HEARTBEAT_PORT | cid}: {error.strerror}",
        ) from None
    return listener


def heard(listener: socket.socket, cid: int) -> bool:
    """Take the connection that waits; tell whether it was the enclave's heartbeat, and answer it."""
    connection, (peer, _) = listener.accept()
    with connection:
        connection.settimeout(10.0)
        try:
            if peer != cid or connection.recv(1) != HEARTBEAT:
                return False
            connection.sendall(HEARTBEAT)
        except OSError:
            return False
        return True
