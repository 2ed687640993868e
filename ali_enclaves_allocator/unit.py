"""The service's own unit: what it tells systemd, and what it learns from it."""

import asyncio
import os
import socket

import systemd.daemon

from ali_enclaves_allocator.kernel.systemd import job_of_own_unit

SOCKET_NAME = "allocator"
"""The listening socket's name in the fd store (FDNAME of sd_pid_notify_with_fds(3))."""

SUCCESSOR_JOBS = {"restart", "try-restart", "start"}
"""Jobs of our unit that start the service again (the JobType property of org.freedesktop.systemd1.Job)."""


LONGEST_STATUS = 2048
"""Bytes of a status; systemd takes 4096 in one message (PIPE_BUF)."""


def notify(*assignments: str) -> None:
    """Send assignments such as `READY=1` (sd_notify(3)); without systemd nothing happens."""
    systemd.daemon.notify("\n".join(assignments))


def status(sentence: str) -> None:
    """Set the sentence that `systemctl status` shows. systemd would ignore one that is too long.

    Lines that are set in, such as the text of a file above a caret, make no sense in one line.
    """
    told = [line.strip() for line in sentence.splitlines() if not line.startswith(" ")]
    text = "; ".join(told).encode()
    if len(text) > LONGEST_STATUS:
        text = text[:LONGEST_STATUS] + b"..."
    notify(f"STATUS={text.decode(errors='ignore')}")


def watchdog_interval_s() -> float | None:
    """Return how often to send `WATCHDOG=1`, half of what systemd asks, or None (sd_watchdog_enabled(3))."""
    usec = os.environ.get("WATCHDOG_USEC")
    return int(usec) / 2_000_000 if usec and os.environ.get("WATCHDOG_PID") in (None, str(os.getpid())) else None


def stored_socket() -> socket.socket | None:
    """Return the listening socket that a predecessor left in the fd store, if it did."""
    found = None
    for fd, name in systemd.daemon.listen_fds_with_names().items():
        if name == SOCKET_NAME and found is None:
            found = socket.socket(fileno=fd)
        else:
            os.close(fd)
    return found


def store_socket(listener: socket.socket) -> None:
    """Keep the listening socket, and no other, over restart and crash; systemd drops it when the service is stopped."""
    notify("FDSTOREREMOVE=1", f"FDNAME={SOCKET_NAME}")
    systemd.daemon.notify(f"FDSTORE=1\nFDNAME={SOCKET_NAME}\nFDPOLL=0", fds=[listener.fileno()])


async def has_successor() -> bool:
    """Tell whether systemd will start the service again when it ends: a restart rather than a stop.

    The type of the unit's own job knows; SIGTERM alone cannot tell. Where systemd does not answer, it is a stop.
    """
    try:
        return await asyncio.to_thread(job_of_own_unit) in SUCCESSOR_JOBS
    except OSError:
        return False
