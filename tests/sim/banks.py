"""Simulated banks: hugetlbfs mounts with a hold file and the leases' files, by the rules of `pages.Mount`."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ali_enclaves_allocator.model.pool import Bank, Lease
from tests.sim.pages import HOLD, Mount, every

if TYPE_CHECKING:
    from tests.sim.kernel import Simulation


class SimBanks:
    """The door to banks. Every system call that changes one is an effect."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._mounts = simulation.mounts

    def mount(self, bank: Bank) -> None:
        """Mount a bank of exactly its size; one that is mounted already stays as it is."""
        if bank.name in self._mounts:
            return
        with self._simulation.effects.effect(f"mount {bank.name}"):
            mount = Mount(self._simulation.pages[bank.page_kib], bank.pages)
            if not mount.open():
                raise OSError(errno.EIO, "systemd: the job of bank0.mount ended so: failed")
            self._mounts[bank.name] = mount

    def carve(self, bank: Bank, lease: Lease) -> int:
        """Make the hold file the lease's. Return a file of the lease's size."""
        if bank.name not in self._mounts or HOLD not in self._mounts[bank.name].files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        files = self._mounts[bank.name].files
        if len(files[HOLD]) < lease.pages:
            raise OSError(errno.ENOSPC, "the bank holds fewer pages than the lease")
        with self._simulation.effects.effect(f"rename {bank.name}"):
            files[f"lease-{lease.id}"] = files.pop(HOLD)
        files[HOLD] = []
        with self._simulation.effects.effect(f"own {bank.name}"):
            file = os.memfd_create(f"lease-{lease.id}")
            os.ftruncate(file, lease.pages * bank.page_kib * 1024)
            os.fchown(file, -1, lease.holder.gid)
            os.fchmod(file, 0o660)
        return file

    def settle(self, bank: Bank, leases: Mapping[str, int], seconds: float | None = None) -> bool:
        """Move pages that no lease has into the hold file, in a few steps where the real door does one each.

        With a time to be done in, one of them.
        """
        if bank.name not in self._mounts:
            return True
        self._mounts[bank.name].files.setdefault(HOLD, [])
        if not self._settle(bank, leases, hurried=seconds is not None):
            return False
        return self.settled(bank, leases) or self._settle(bank, leases)

    def _settle(self, bank: Bank, leases: Mapping[str, int], hurried: bool = False) -> bool:
        mount, wanted = self._mounts[bank.name], {f"lease-{id}": pages for id, pages in leases.items()}
        for name in sorted(mount.files.keys() - {HOLD}):
            surplus = len(mount.files[name]) - wanted.get(name, 0)
            for part in _halves(surplus):
                with self._simulation.effects.effect(f"cut {bank.name}"):
                    mount.truncate(name, len(mount.files[name]) - part)
                self._hold(bank, bank.pages - mount.used)
                if hurried:
                    return False
            if name not in wanted:
                with self._simulation.effects.effect(f"unlink {bank.name}"):
                    del mount.files[name]
        for part in _halves(bank.pages - mount.used):
            self._hold(bank, part)
        return True

    def settled(self, bank: Bank, leases: Mapping[str, int]) -> bool:
        """Tell whether every page is allocated, and no file but the hold file has no lease or more than that."""
        mount, wanted = self._mounts.get(bank.name), {f"lease-{id}": pages for id, pages in leases.items()}
        return mount is None or (
            _held(mount, leases) >= mount.size
            and all(len(pages) <= wanted.get(name, -1) for name, pages in mount.files.items() if name != HOLD)
        )

    def _hold(self, bank: Bank, count: int) -> None:
        """Hold so many more pages, or as many as there are."""
        with self._simulation.effects.effect(f"hold {bank.name}"):
            every(count, lambda: self._mounts[bank.name].extend(HOLD, bank.node))

    def unmount(self, bank: Bank) -> None:
        """Unmount a bank, which frees its pages; one that is not mounted is no error.

        Nobody has the file of an ended lease open here.
        """
        if bank.name not in self._mounts:
            return
        with self._simulation.effects.effect(f"unmount {bank.name}"):
            self._mounts.pop(bank.name).close()

    def held(self, lent: Mapping[str, int]) -> Mapping[str, int]:
        """Return the pages that each mounted bank holds, by its name; a lease has at least its own."""
        return {name: _held(mount, lent) for name, mount in sorted(self._mounts.items())}


def _held(mount: Mount, lent: Mapping[str, int]) -> int:
    return sum(max(len(pages), lent.get(name.removeprefix("lease-"), 0)) for name, pages in mount.files.items())


def _halves(count: int) -> list[int]:
    """Cut a number in two, so that the process can die half-way."""
    return [part for part in (count - count // 2, count // 2) if part > 0]
