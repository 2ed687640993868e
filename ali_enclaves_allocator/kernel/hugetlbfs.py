"""The door to banks: hugetlbfs mounts, owned by systemd, whose hold file keeps the pool's pages from anybody else.

A mount of a fixed size reserves a count of pages on any node; only pages allocated to a file are held for certain
and on one node. So a bank is mounted, then its hold file is filled under a memory policy. All that this file has lies
beyond its end, so that it can become a lease's file, which ends with the lease's last page. Pages go from one file to
another one at a time: between the two only their count is promised, so where other programs have idle pages on another
node, they may take one of this node instead.
"""

import errno
import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ali_enclaves_allocator.kernel.allocation import allocate_hidden, punch
from ali_enclaves_allocator.kernel.mempolicy import bound
from ali_enclaves_allocator.kernel.systemd import systemd
from ali_enclaves_allocator.model.pool import Bank, Lease

HOLD_FILE = "hold"
LEASE_FILE = "lease-"
"""Followed by the lease's id."""

TRIES = 100
PAUSE_SECONDS = 0.005
"""How often, and after what pause, a page that somebody took in between is asked for again."""


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

    def carve(self, bank: Bank, lease: Lease) -> int:
        """Make the hold file the lease's file, which ends with the lease's last page. Return its fd.

        The lease's pages never leave their file, and are clear because nobody had them yet. What is too much of it
        lies beyond its end, clear too, until `settle` holds it.

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
            with _opened(hold, os.O_CREAT):
                os.posix_fallocate(file, 0, size)
            os.fchmod(file, 0o600)
            os.fchown(file, lease.holder.uid, lease.holder.gid)
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
        settling = _Settling(where, bank, leases, seconds)
        if where.is_mount():
            bound(bank.node, settling.run)
        return not settling.interrupted

    def settled(self, bank: Bank, leases: Mapping[str, int]) -> bool:
        """Tell whether every page of the bank is where it belongs, and no file of an ended lease is left.

        A bank that is not mounted cannot be settled.
        """
        where = self._directory / bank.name
        settling = _Settling(where, bank, leases)
        return not where.is_mount() or (settling.done() and not settling.left())

    def unmount(self, bank: Bank) -> None:
        """Stop the bank's mount unit and remove its directory.

        Who has a file open that came to it from the service, whose mounts are its own, does not keep the mount busy
        and yet keeps the pages: it counts here.

        Raises:
            OSError: systemd could not unmount it, or somebody has a file of an ended lease open (EBUSY).
        """
        where = self._directory / bank.name
        if where.is_mount():
            for name in _files(where).keys() - {HOLD_FILE}:
                if not _forget(where / name):
                    raise OSError(errno.EBUSY, f"{name} is open still, after its lease has ended")
            systemd("systemd-umount", "--quiet", "--no-ask-password", str(where))
        if where.exists():
            where.rmdir()

    def held(self) -> Mapping[str, int]:
        """Return the pages that the files of each mounted bank have, by its name.

        Not what statvfs says: that counts the reservations of mappings too (`hugepage_subpool_get_pages`).
        """
        return {
            where.name: sum(stats.st_blocks for stats in _files(where).values()) * 512 // os.statvfs(where).f_bsize
            for where in sorted(self._directory.glob("bank*"))
            if where.is_mount()
        }


class _Settling:
    """One settling of a bank. It has a limited patience with those who take pages."""

    interrupted = False
    """Whether its time ran out, after one page at least."""

    def __init__(self, where: Path, bank: Bank, leases: Mapping[str, int], seconds: float | None = None) -> None:
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._where, self._pages, self._page = where, bank.pages, bank.page_kib * 1024
        self._wanted = {f"{LEASE_FILE}{id}": pages for id, pages in leases.items()}
        self._tries = TRIES

    def run(self) -> None:
        """Settle the bank, as far as it can be done."""
        with _opened(self._where / HOLD_FILE, os.O_CREAT) as hold:
            while True:
                for name in self._suspects():
                    with suppress(BlockingIOError), _opened(self._where / name) as file:
                        self._cut(file, self._wanted.get(name, 0), hold)
                self._hold(hold)
                if self.interrupted or self.done() or not self._tries:
                    break
                self._tries -= 1
        if not self.interrupted:  # a name that goes sets all its pages free at once
            for name in self.left():
                _forget(self._where / name)

    def done(self) -> bool:
        """Tell whether every page is allocated, and no file has or spans more than its lease.

        A holder can make its file grow while another lease's pages change hands; once all are held it cannot.
        """
        return not self._suspects() and self._is_full(_files(self._where))

    def left(self) -> set[str]:
        """Return the files that no lease has any more."""
        return _files(self._where).keys() - {HOLD_FILE} - self._wanted.keys()

    def _suspects(self) -> set[str]:
        """Return the files that have or span more than their lease; all of them while a page is missing.

        For a mapping may have reserved it, which no file shows.
        """
        files = _files(self._where)
        others = files.keys() - {HOLD_FILE}
        if not self._is_full(files):
            return others
        most = {name: self._wanted.get(name, 0) * self._page for name in others}
        return {name for name in others if max(files[name].st_size, files[name].st_blocks * 512) > most[name]}

    def _is_full(self, files: Mapping[str, os.stat_result]) -> bool:
        return sum(stats.st_blocks for stats in files.values()) * 512 == self._pages * self._page

    def _cut(self, file: int, wanted: int, hold: int) -> None:
        """Cut a file, page by page, and hold each: first those beyond its end, which nobody can map.

        In the end, truncating also frees what was only reserved, by a mapping.
        """
        stats = os.fstat(file)
        end = min(stats.st_size // self._page, self._pages)
        if stats.st_size > end * self._page:
            os.ftruncate(file, end * self._page)
        for page in range(stats.st_blocks * 512 // self._page - 1, max(end, wanted) - 1, -1):
            punch(file, page * self._page, self._page)
            self._hold(hold)
            if self._must_stop():
                return
        for page in range(end - 1, wanted - 1, -1):
            os.ftruncate(file, page * self._page)
            self._hold(hold)
            if self._must_stop():
                return
        os.ftruncate(file, min(end, wanted) * self._page)

    def _must_stop(self) -> bool:
        """Tell whether the time has run out, and note that."""
        self.interrupted = self._deadline is not None and time.monotonic() > self._deadline
        return self.interrupted

    def _hold(self, hold: int) -> None:
        """Let the hold file have all that the mount has room for; where a page was taken, wait for it."""
        while True:
            free, has = os.statvfs(hold).f_bfree, os.fstat(hold).st_blocks * 512
            try:
                if free:
                    allocate_hidden(hold, has, free * self._page)
                return
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.ENOMEM):
                    raise
            if not self._tries:
                return
            self._tries -= 1
            time.sleep(PAUSE_SECONDS)


def _files(where: Path) -> dict[str, os.stat_result]:
    """Return the files of a bank. One may go away meanwhile, when a lease ends."""
    files = {}
    for path in where.iterdir():
        with suppress(FileNotFoundError):
            files[path.name] = path.stat(follow_symlinks=False)
    return files


@contextmanager
def _opened(path: Path, flags: int = 0) -> Iterator[int]:
    """Open a file of a bank, for as long as a block runs.

    Raises:
        BlockingIOError: its owner, a holder, has a file lease on it (F_SETLEASE), for which we do not wait. The kernel
            takes that away within /proc/sys/fs/lease-break-time.
    """
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | flags, 0o600)
    try:
        yield file
    finally:
        os.close(file)


def _forget(path: Path) -> bool:
    """Remove the file of an ended lease, unless somebody has it open still: only by its name it can be cut again.

    Return whether it is gone.

    A write lease is what the kernel gives to nobody beside another who has the file open (F_SETLEASE in fcntl(2)).
    """
    try:
        with _opened(path) as file:
            _claim(file)
            path.unlink()
    except BlockingIOError:
        return False
    return True


def _claim(file: int) -> None:
    """Take a write lease of a file, for as long as it is open.

    Raises:
        BlockingIOError: somebody else has it open.
    """
    try:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError as error:
        if error.errno != errno.EINVAL:  # the file system has no such leases
            raise
