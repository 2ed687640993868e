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
                raise OSError(errno.EIO, "systemd-mount: Cannot allocate memory")
            self._mounts[bank.name] = mount

    def fill(self, bank: Bank, pages: int) -> None:
        """Fill the hold file, in two effects, so that the process can die half-way. It never cuts the file."""
        mount = self._mounts[bank.name]
        mount.files.setdefault(HOLD, [])
        missing = max(0, pages - len(mount.files[HOLD]))
        for part in filter(None, (missing // 2, missing - missing // 2)):
            with self._simulation.effects.effect(f"fill {bank.name}"):
                every(part, lambda: mount.extend(HOLD, bank.node))

    def carve(self, bank: Bank, lease: Lease, rest: int) -> int:
        """Cut the hold file to the lease's pages, rename it, hold the rest in a new one. Return a file of its size."""
        if bank.name not in self._mounts or HOLD not in self._mounts[bank.name].files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        files = self._mounts[bank.name].files
        if len(files[HOLD]) < lease.pages:
            raise OSError(errno.ENOSPC, "the bank holds fewer pages than the lease")
        with self._simulation.effects.effect(f"cut {bank.name}"):
            self._mounts[bank.name].truncate(HOLD, lease.pages)
        with self._simulation.effects.effect(f"rename {bank.name}"):
            files[f"lease-{lease.id}"] = files.pop(HOLD)
        self.fill(bank, rest)
        with self._simulation.effects.effect(f"own {bank.name}"):
            file = os.memfd_create(f"lease-{lease.id}")
            os.ftruncate(file, lease.pages * bank.page_kib * 1024)
            os.fchmod(file, 0o600)
            os.fchown(file, lease.holder.uid, lease.holder.gid)
        return file

    def reclaim(self, bank: Bank, lease: str, rest: int) -> None:
        """Cut and remove the lease's file, and hold its pages again; without a mount nothing is left to do."""
        if bank.name not in self._mounts:
            return
        mount, name = self._mounts[bank.name], f"lease-{lease}"
        if name in mount.files:
            with self._simulation.effects.effect(f"empty {bank.name}"):
                mount.truncate(name, 0)
            with self._simulation.effects.effect(f"unlink {bank.name}"):
                del mount.files[name]
        self.fill(bank, rest)

    def unmount(self, bank: Bank) -> None:
        """Unmount a bank, which frees its pages; one that is not mounted is no error."""
        if bank.name not in self._mounts:
            return
        with self._simulation.effects.effect(f"unmount {bank.name}"):
            if any(name != HOLD for name in self._mounts[bank.name].files):
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            self._mounts.pop(bank.name).close()

    def held(self) -> Mapping[str, int]:
        """Return the pages in use in each mounted bank, by its name."""
        return {name: mount.used for name, mount in sorted(self._mounts.items())}
