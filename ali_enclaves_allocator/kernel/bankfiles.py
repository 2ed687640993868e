"""The files of a bank: what they have, how they are opened, and how one goes that no lease has any more."""

import errno
import fcntl
import os
import re
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

HOLD_FILE = "hold"
LEASE_FILE = "lease-"
"""Followed by the lease's id."""

LINK = re.compile(rf"/{LEASE_FILE}[0-9a-f]{{16}}( \(deleted\))?$")
"""What a descriptor of such a file points to in /proc."""


def files_of(where: Path) -> dict[str, os.stat_result]:
    """Return the files of a bank. One may go away meanwhile, when a lease ends."""
    files = {}
    for path in where.iterdir():
        with suppress(FileNotFoundError):
            files[path.name] = path.stat(follow_symlinks=False)
    return files


def held_pages(files: Mapping[str, os.stat_result], lent: Mapping[str, int], page_bytes: int) -> int:
    """Count the pages that a bank's files have, and for a lease's file at least the lease's."""
    return sum(
        max(stats.st_blocks * 512 // page_bytes, lent.get(name.removeprefix(LEASE_FILE), 0))
        for name, stats in files.items()
    )


@contextmanager
def opened(path: Path, flags: int = 0) -> Iterator[int]:
    """Open a file of a bank, for as long as a block runs."""
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    try:
        yield file
    finally:
        os.close(file)


def shut(path: Path) -> None:
    """Let nobody open the file of an ended lease anew, not by a descriptor that he has either (/proc/self/fd)."""
    with suppress(FileNotFoundError):
        os.chmod(path, 0)


def forget(path: Path) -> bool:
    """Remove the file of an ended lease, unless somebody has it open still: only by its name it can be cut again.

    Return whether it is gone.

    A write lease is what the kernel gives to nobody beside another who has the file open (F_SETLEASE in fcntl(2)).
    """
    shut(path)
    try:
        with opened(path) as file:
            _claim(file)
            path.unlink()
    except BlockingIOError:
        return False
    return True


def _claim(file: int) -> None:
    """Take a write lease of a file, for as long as it is open.

    Should anybody open it meanwhile, the kernel tells us by a signal, whose default action must not be our end.

    Raises:
        BlockingIOError: somebody else has it open.
    """
    try:
        fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError as error:
        if error.errno != errno.EINVAL:  # the file system has no such leases
            raise


def keeper(where: Path) -> str | None:
    """Name a process that has a lease's file of a bank open, be it removed or not, or None.

    A descriptor that is only a place (O_PATH in open(2)) counts as an open file for nobody, and yet keeps all of the
    file system. Only what a link's text gives away is looked at closer: other files may be on a server that is gone.
    """
    device = where.stat().st_dev
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):  # it has ended
            if any(_leads_to(f"/proc/{pid}/fd/{fd}", device) for fd in os.listdir(f"/proc/{pid}/fd")):
                return f"{Path(f'/proc/{pid}/comm').read_text().strip()}[{pid}]"
    return None


def _leads_to(link: str, device: int) -> bool:
    """Tell whether a descriptor is that of a lease's file in a file system."""
    try:
        return bool(LINK.search(os.readlink(link))) and os.stat(link).st_dev == device
    except FileNotFoundError:  # it is closed
        return False
