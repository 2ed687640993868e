"""The door to banks: hugetlbfs mounts, owned by systemd, whose hold file keeps the pool's pages from anybody else.

A mount of a fixed size reserves a count of pages on any node; only pages allocated to a file are held for certain
and on one node. So a bank is mounted, then its hold file is filled under a memory policy.
"""

import ctypes
import errno
import os
import platform
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path

from ali_enclaves_allocator.model.pool import Bank

SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}
"""The system call's number; glibc has no wrapper, only libnuma does (set_mempolicy(2))."""

MPOL_BIND = 2
"""Allocate on the given nodes or fail (linux/mempolicy.h)."""

HOLD_FILE = "hold"


class LinuxBanks:
    """Banks below the run directory, one directory each."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def mount(self, bank: Bank) -> None:
        """Mount a bank through a transient mount unit, which outlives this service.

        `min_size` reserves the pages at once, `size` is what stops a holder from growing its file
        (Documentation/admin-guide/mm/hugetlbpage.rst).

        Raises:
            OSError: systemd refused.
        """
        where = self._directory / bank.name
        if where.is_mount():
            return
        size = f"{bank.pages * bank.page_kib}K"
        options = f"pagesize={bank.page_kib}K,size={size},min_size={size},mode=0700,nosuid,nodev,noexec"
        _systemd(
            *("systemd-mount", "--quiet", "--no-ask-password", "--collect", "--fsck=no", "--type=hugetlbfs"),
            *(f"--options={options}", f"--description=Enclave memory of node {bank.node}", "hugetlbfs", str(where)),
        )

    def fill(self, bank: Bank) -> None:
        """Fill the hold file from the bank's node. Where pages run short, the file keeps what it got."""
        failures: list[OSError] = []
        hold = self._directory / bank.name / HOLD_FILE

        def allocate() -> None:
            try:
                _allocate(hold, bank.pages * bank.page_kib * 1024, bank.node)
            except OSError as error:
                failures.append(error)

        thread = threading.Thread(target=allocate, name=f"fill-{bank.name}")
        thread.start()
        thread.join()
        if failures and failures[0].errno not in (errno.ENOSPC, errno.ENOMEM):
            raise failures[0]

    def unmount(self, bank: Bank) -> None:
        """Stop the bank's mount unit and remove its directory.

        Raises:
            OSError: systemd could not unmount it.
        """
        where = self._directory / bank.name
        if where.is_mount():
            _systemd("systemd-umount", "--quiet", "--no-ask-password", str(where))
        if where.exists():
            where.rmdir()

    def held(self) -> Mapping[str, int]:
        """Return the pages in use in each mounted bank, by its name."""
        banks = {}
        for where in sorted(self._directory.glob("bank*")):
            if where.is_mount():
                counts = os.statvfs(where)
                banks[where.name] = counts.f_blocks - counts.f_bfree
        return banks


def _allocate(path: Path, size_bytes: int, node: int) -> None:
    """Allocate a file's pages on one node. The memory policy is the calling thread's, which ends with it."""
    words = node // 64 + 1
    mask = (ctypes.c_ulong * words)()
    mask[node // 64] = 1 << node % 64
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(SET_MEMPOLICY[platform.machine()], MPOL_BIND, mask, ctypes.c_ulong(words * 64 + 1)):
        raise OSError(ctypes.get_errno(), "cannot set the memory policy")
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.posix_fallocate(file, 0, size_bytes)
    finally:
        os.close(file)


def _systemd(*command: str) -> None:
    """Run one of systemd's commands, which wait for the job to end."""
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except subprocess.CalledProcessError as error:
        reason = " ".join(error.stderr.split()) or f"exit status {error.returncode}"
        raise OSError(errno.EIO, f"{command[0]}: {reason}") from error
