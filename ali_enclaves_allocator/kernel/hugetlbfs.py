"""The door to banks: hugetlbfs mounts, owned by systemd, whose hold file keeps the pool's pages from anybody else.

A mount of a fixed size reserves a count of pages on any node; only pages allocated to a file are held for certain
and on one node. So a bank is mounted, then its hold file is filled under a memory policy.
"""

import ctypes
import errno
import os
import platform
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ali_enclaves_allocator.kernel.systemd import systemd
from ali_enclaves_allocator.model.pool import Bank, Lease

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
        systemd(
            *("systemd-mount", "--quiet", "--no-ask-password", "--collect", "--fsck=no", "--type=hugetlbfs"),
            *(f"--options={options}", f"--description=Enclave memory of node {bank.node}", "hugetlbfs", str(where)),
        )

    def fill(self, bank: Bank, pages: int) -> None:
        """Fill the hold file from the bank's node. Where pages run short, the file keeps what it got.

        The pages are allocated in a thread of its own, whose memory policy ends with it.
        """
        failures: list[OSError] = []
        hold = self._directory / bank.name / HOLD_FILE

        def allocate() -> None:
            try:
                _allocate(hold, pages * bank.page_kib * 1024, bank.node)
            except OSError as error:
                failures.append(error)

        thread = threading.Thread(target=allocate, name=f"fill-{bank.name}")
        thread.start()
        thread.join()
        if failures and failures[0].errno not in (errno.ENOSPC, errno.ENOMEM):
            raise failures[0]

    def carve(self, bank: Bank, lease: Lease, rest: int) -> int:
        """Make the front of the hold file the lease's file, and hold the rest in a new one.

        The front was cleared when it was allocated and nobody ever had it. The pages cut off go to the mount's own
        reservation, so only for a moment, and only where the node has pages of others idle, could one be taken.

        Raises:
            OSError: the hold file is not there, or shorter than the lease.
        """
        directory = self._directory / bank.name
        size = lease.pages * bank.page_kib * 1024
        file = os.open(directory / HOLD_FILE, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if os.fstat(file).st_blocks * 512 < size:
                raise OSError(errno.ENOSPC, "the bank holds fewer pages than the lease")
            os.ftruncate(file, size)
            os.rename(directory / HOLD_FILE, directory / f"lease-{lease.id}")
            self.fill(bank, rest)
            os.fchmod(file, 0o600)
            os.fchown(file, lease.holder.uid, lease.holder.gid)
        except BaseException:
            os.close(file)
            raise
        return file

    def reclaim(self, bank: Bank, lease: str, rest: int) -> None:
        """Truncate and remove the lease's file, and hold its pages again. Who still maps them gets SIGBUS."""
        path = self._directory / bank.name / f"lease-{lease}"
        with suppress(FileNotFoundError):
            os.truncate(path, 0)
            path.unlink()
        if path.parent.is_mount():
            self.fill(bank, rest)

    def unmount(self, bank: Bank) -> None:
        """Stop the bank's mount unit and remove its directory.

        Raises:
            OSError: systemd could not unmount it.
        """
        where = self._directory / bank.name
        if where.is_mount():
            systemd("systemd-umount", "--quiet", "--no-ask-password", str(where))
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
    refused = libc.syscall(SET_MEMPOLICY[platform.machine()], MPOL_BIND, mask, ctypes.c_ulong(words * 64 + 1))
    if refused and ctypes.get_errno() != errno.ENOSYS:  # a kernel without CONFIG_NUMA has one node, and no policies
        raise OSError(ctypes.get_errno(), "cannot set the memory policy")
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if not size_bytes:
            return
        os.posix_fallocate(file, 0, size_bytes)
    finally:
        os.close(file)
