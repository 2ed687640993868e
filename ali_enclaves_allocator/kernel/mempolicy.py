"""Memory policies: work that takes and gives pages of one node only (set_mempolicy(2))."""

import ctypes
import errno
import platform
import threading
from collections.abc import Callable

SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}
"""The system call's number; glibc has no wrapper, only libnuma does (set_mempolicy(2))."""

MPOL_BIND = 2
"""Allocate on the given nodes or fail (linux/mempolicy.h)."""


def bound(node: int, work: Callable[[], None]) -> None:
    """Do work whose pages come from one node or not at all.

    In a thread of its own, whose memory policy ends with it.

    Raises:
        OSError: the policy was refused, or the work failed so.
    """
    failures: list[BaseException] = []

    def run() -> None:
        try:
            _bind(node)
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name=f"node-{node}")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def _bind(node: int) -> None:
    """Let the calling thread allocate on one node only."""
    words = node // 64 + 1
    mask = (ctypes.c_ulong * words)()
    mask[node // 64] = 1 << node % 64
    libc = ctypes.CDLL(None, use_errno=True)
    refused = libc.syscall(SET_MEMPOLICY[platform.machine()], MPOL_BIND, mask, ctypes.c_ulong(words * 64 + 1))
    if refused and ctypes.get_errno() != errno.ENOSYS:  # a kernel without CONFIG_NUMA has one node, and no policies
        raise OSError(ctypes.get_errno(), "cannot set the memory policy")
