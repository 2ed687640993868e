"""The door to banks: hugetlbfs mounts, owned by systemd, whose hold file keeps the pool's pages from anybody else.

A mount of a fixed size reserves a count of pages on any node; only pages allocated to a file are held for certain
and on one node. So a bank is mounted, then its hold file is filled under a memory policy. All that this file has lies
beyond its end, so that it can become a lease's file, which ends with the lease's last page. Pages go from one file to
another one at a time: between the two only their count is promised, so where other programs have idle pages on another
node, they may take one of this node instead.
"""

import errno
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ali_enclaves_allocator.kernel import systemd
from ali_enclaves_allocator.kernel.bankfiles import HOLD_FILE, LEASE_FILE, files_of, forget, held_pages, keeper, opened
from ali_enclaves_allocator.kernel.mempolicy import bound
from ali_enclaves_allocator.kernel.settling import Settling
from ali_enclaves_allocator.model.pool import Bank, Lease

TRIES, PAUSE_SECONDS = 50, 0.01
"""How often, and after what pause, is looked again whether memory is free that the kernel frees later."""


class LinuxBanks:
    """Banks, one directory each below one that nobody else may enter: who could open a bank could keep it."""

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
            stats = os.statvfs(where)
            if (stats.f_bsize, stats.f_blocks) == (bank.page_kib * 1024, bank.pages):
                return
            self.unmount(bank)  # systemd mounted it when nobody waited for it any more
        self._directory.mkdir(mode=0o700, exist_ok=True)
        size = f"{bank.pages * bank.page_kib}K"
        options = f"pagesize={bank.page_kib}K,size={size},min_size={size},mode=0700,nosuid,nodev,noexec"
        systemd.start_transient(
            systemd.mount_unit(where),
            systemd.text("Description", f"Enclave memory of node {bank.node}"),
            systemd.text("What", "hugetlbfs"),
            systemd.text("Type", "hugetlbfs"),
            systemd.text("Options", options),
            systemd.text("CollectMode", "inactive-or-failed"),
        )

    def carve(self, bank: Bank, lease: Lease) -> int:
        """Make the hold file the lease's file, which ends with the lease's last page. Return its fd.

        The lease's pages never leave their file, and are clear because nobody had them yet. What is too much of it
        lies beyond its end, clear too, until `settle` holds it.

        The holder is not its owner, who could change its mode, and take a file lease on it that keeps us out
        (F_SETLEASE in fcntl(2)). By its group it can open it anew, as QEMU does (/proc/self/fd).

        Raises:
            OSError: the hold file has too few pages.
        """
        hold = self._directory / bank.name / HOLD_FILE
        size = lease.pages * bank.page_kib * 1024
        file = os.open(hold, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if os.fstat(file).st_blocks * 512 < size:
                raise OSError(errno.ENOSPC, "the bank holds fewer pages than the lease")
            os.rename(hold, hold.with_name(f"{LEASE_FILE}{lease.id}"))
            with opened(hold, os.O_CREAT):
                os.posix_fallocate(file, 0, size)
            os.fchown(file, -1, lease.holder.gid)
            os.fchmod(file, 0o660)
        except BaseException:
            os.close(file)
            raise
        return file

    def settle(self, bank: Bank, leases: Mapping[str, int], seconds: float | None = None) -> bool:
        """Cut every file to the pages that its lease has, none without a lease, and hold all others.

        Who still maps what is cut off gets SIGBUS. Where a page was taken in between and does not come back within
        a moment, the hold file stays short of it until this is called again.

        Return whether it came to its end, and not only to that of its time.
        """
        where = self._directory / bank.name
        settling = Settling(where, bank, leases, seconds)
        if where.is_mount():
            bound(bank.node, settling.run)
        return not settling.interrupted

    def settled(self, bank: Bank, leases: Mapping[str, int]) -> bool:
        """Tell whether every page of the bank is where it belongs, and no file of an ended lease is left.

        A bank that is not mounted cannot be settled.
        """
        where = self._directory / bank.name
        settling = Settling(where, bank, leases)
        return not where.is_mount() or (settling.done() and not settling.left())

    def unmount(self, bank: Bank) -> None:
        """Stop the bank's mount unit and remove its directory.

        Who has a file open that came to it from the service, whose mounts are its own, does not keep the mount busy
        and yet keeps the pages: it counts here. So do pages that no file has any more, such as those that a pipe or
        a ring still refers to.

        Raises:
            OSError: systemd could not unmount it, or somebody keeps what was an ended lease's (EBUSY).
        """
        where = self._directory / bank.name
        if where.is_mount():
            for name in files_of(where).keys() - {HOLD_FILE}:
                if not forget(where / name):
                    raise OSError(errno.EBUSY, f"{name} is open still, after its lease has ended")
            if loose := _pages_of_nobody(where):
                raise OSError(errno.EBUSY, f"{loose} page{'s' * (loose > 1)} in use still, after the end of a lease")
            if who := keeper(where):
                raise OSError(errno.EBUSY, f"{who} has a file of it open still")
            try:
                systemd.stop(systemd.mount_unit(where))
            except OSError:
                if where.is_mount():
                    raise
        if where.exists():
            where.rmdir()
        with suppress(OSError):  # another bank is in it
            self._directory.rmdir()

    def held(self, lent: Mapping[str, int]) -> Mapping[str, int]:
        """Return the pages that each mounted bank holds, by its name. `lent` are those of all leases, by their ids.

        What a holder made free of its own memory is kept for it, and counts. Not what statvfs says: that counts the
        reservations of mappings too (`hugepage_subpool_get_pages`).
        """
        held = {}
        for where in sorted(self._directory.glob("bank*")):
            with suppress(FileNotFoundError):  # it is unmounted just now
                if where.is_mount():
                    held[where.name] = held_pages(files_of(where), lent, os.statvfs(where).f_bsize)
        return held


def _pages_of_nobody(where: Path) -> int:
    """Count the pages of a bank that are in use, though no file has them. What the kernel frees later is waited for."""
    for _ in range(TRIES):
        stats = os.statvfs(where)
        in_files = sum(file.st_blocks for file in files_of(where).values()) * 512 // stats.f_bsize
        loose = stats.f_blocks - stats.f_bfree - in_files
        if loose <= 0:
            return 0
        time.sleep(PAUSE_SECONDS)
    return loose
