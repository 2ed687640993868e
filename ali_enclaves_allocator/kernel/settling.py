"""Settling a bank: every lease's file has the lease's pages, and the hold file all others.

Pages are free on their way from one file to the other, and somebody may take one. He gets no second: nothing more is
cut until the hold file has it, or patience ends.
"""

import errno
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from ali_enclaves_allocator.kernel.allocation import allocate_hidden, punch
from ali_enclaves_allocator.kernel.bankfiles import (
    HOLD_FILE,
    LEASE_FILE,
    files_of,
    forget,
    held_pages,
    opened,
    shut,
)
from ali_enclaves_allocator.model.pool import Bank

TRIES = 100
PAUSE_SECONDS = 0.005
"""How often, and after what pause, a page that somebody took in between is asked for again."""


class Settling:
    """One settling of a bank. It has a limited patience with those who take pages."""

    interrupted = False
    """Whether its time ran out, after one page at least."""

    def __init__(self, where: Path, bank: Bank, leases: Mapping[str, int], seconds: float | None = None) -> None:
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._where, self._pages, self._page = where, bank.pages, bank.page_kib * 1024
        self._lent, self._wanted = leases, {f"{LEASE_FILE}{id}": pages for id, pages in leases.items()}
        self._tries = TRIES

    def run(self) -> None:
        """Settle the bank, as far as it can be done."""
        for name in self.left():
            shut(self._where / name)
        with opened(self._where / HOLD_FILE, os.O_CREAT) as hold:
            while True:
                for name in self._suspects():
                    with opened(self._where / name) as file:
                        self._cut(file, self._wanted.get(name, 0), hold)
                self._hold(hold)
                if self.interrupted or self.done() or not self._tries:
                    break
                self._tries -= 1
        files = files_of(self._where)
        for name in self.left():
            if not files[name].st_blocks:  # a name that goes sets all pages free at once
                forget(self._where / name)

    def done(self) -> bool:
        """Tell whether every page is held, and no file has or spans more than its lease.

        A holder can make its file grow while another lease's pages change hands, or with what a holder made free;
        once all are held it cannot.
        """
        return not self._suspects() and self._is_full(files_of(self._where))

    def left(self) -> set[str]:
        """Return the files that no lease has any more."""
        return files_of(self._where).keys() - {HOLD_FILE} - self._wanted.keys()

    def _suspects(self) -> set[str]:
        """Return the files that have or span more than their lease; all of them while a page is missing.

        For a mapping may have reserved it, which no file shows.
        """
        files = files_of(self._where)
        others = files.keys() - {HOLD_FILE}
        if not self._is_full(files):
            return others
        most = {name: self._wanted.get(name, 0) * self._page for name in others}
        return {name for name in others if max(files[name].st_size, files[name].st_blocks * 512) > most[name]}

    def _is_full(self, files: Mapping[str, os.stat_result]) -> bool:
        return held_pages(files, self._lent, self._page) >= self._pages

    def _cut(self, file: int, wanted: int, hold: int) -> None:
        """Cut a file, page by page, and hold each: first those beyond its end, which nobody can map.

        In the end, truncating also frees what was only reserved, by a mapping.
        """
        stats = os.fstat(file)
        has = stats.st_blocks * 512 // self._page
        end = min(stats.st_size // self._page, max(has, wanted))
        if stats.st_size > end * self._page:
            os.ftruncate(file, end * self._page)
        for page in range(has - 1, max(end, wanted) - 1, -1):
            if not self._move(partial(punch, file, page * self._page, self._page), file, hold) or self._must_stop():
                return
        for page in range(end - 1, wanted - 1, -1):
            if not self._move(partial(os.ftruncate, file, page * self._page), file, hold) or self._must_stop():
                return
        os.ftruncate(file, min(end, wanted) * self._page)

    def _move(self, free: Callable[[], None], file: int, hold: int) -> bool:
        """Free a page of a file, if it is there, and hold it. Return whether nobody else has it."""
        had, end = os.fstat(file).st_blocks, os.fstat(hold).st_blocks * 512
        free()
        while not _allocated(hold, end, self._page):
            if os.fstat(file).st_blocks == had:
                return True
            if not self._tries:
                return False
            self._pause()
        return True

    def _must_stop(self) -> bool:
        """Tell whether the time has run out, and note that."""
        self.interrupted = self._deadline is not None and time.monotonic() > self._deadline
        return self.interrupted

    def _hold(self, hold: int) -> None:
        """Let the hold file have all that the mount has room for; where a page was taken, wait for it."""
        while free := os.statvfs(hold).f_bfree:
            if _allocated(hold, os.fstat(hold).st_blocks * 512, free * self._page) or not self._tries:
                return
            self._pause()

    def _pause(self) -> None:
        self._tries -= 1
        time.sleep(PAUSE_SECONDS)


def _allocated(file: int, offset: int, length: int) -> bool:
    """Allocate bytes of a file. Return whether there was room."""
    try:
        allocate_hidden(file, offset, length)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.ENOMEM):
            raise
        return False
    return True
