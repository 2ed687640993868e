"""Pages of a file that its size does not show (fallocate(2)); Python itself has posix_fallocate(3) only."""

import ctypes
import errno
import os

KEEP_SIZE, PUNCH_HOLE = 1, 2
"""FALLOC_FL_KEEP_SIZE and FALLOC_FL_PUNCH_HOLE (linux/falloc.h)."""

_libc = ctypes.CDLL(None, use_errno=True)


def allocate_hidden(file: int, offset: int, length: int) -> None:
    """Allocate bytes `offset` to `offset + length` of a file, clear, and leave its size as it is.

    Raises:
        OSError: there is no room (ENOSPC, ENOMEM).
    """
    _fallocate(file, KEEP_SIZE, offset, length)


def punch(file: int, offset: int, length: int) -> None:
    """Free bytes `offset` to `offset + length` of a file, wherever its end is.

    Raises:
        OSError: the file system refused.
    """
    _fallocate(file, KEEP_SIZE | PUNCH_HOLE, offset, length)


def _fallocate(file: int, mode: int, offset: int, length: int) -> None:
    """Call fallocate(2), again after every signal, as Python does for its own calls (PEP 475).

    hugetlbfs keeps the pages that it allocated before a signal (`hugetlbfs_fallocate`, fs/hugetlbfs/inode.c).
    """
    while _libc.fallocate(file, mode, ctypes.c_long(offset), ctypes.c_long(length)):
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))
