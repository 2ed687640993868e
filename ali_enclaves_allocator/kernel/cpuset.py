"""The door to systemd's cgroups: a scope for each lease, and the partition that keeps the host off lent CPUs.

`enclaves.slice` becomes a cpuset partition while CPUs are lent online, and holds exactly those: they come up inside it
(Documentation/admin-guide/cgroup-v2.rst, "Cpuset"). systemd owns the cgroups, because it removes what it does not know
at its next daemon-reload.

The partition is a `root`, never `isolated`: since Linux 6.8 (fe28f631fa94) that also moves unbound kernel work off its
CPUs. For this the kernel starts threads while it holds the lock of all cpusets; a new thread waits for any task that
moves between cgroups, and that one for the lock. The whole machine hangs (tests/vm/scripts/partition_under_load.sh).

After the last of these leases the slice stays, open, until its CPUs are the host's again. Forming the partition took
them from the affinity of every host task. A task gets a CPU back when it comes online, but only in a cpuset below the
root; systemd drops those when the last unit with `AllowedCPUs=` goes, and on Linux 6.12 (`cpuset_attach`) the tasks
that move to the root then keep what they had, for ever. For CPUs that others have offline just then, see
`_unlike_the_root`.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ali_enclaves_allocator.kernel import systemd
from ali_enclaves_allocator.model import cpus
from ali_enclaves_allocator.model.pool import Lease
from ali_enclaves_allocator.model.refusals import OnlineImpossible

CGROUP = Path("/sys/fs/cgroup")
SLICE = "enclaves.slice"
DROP_INS = Path("/run/systemd/system.control", f"{SLICE}.d")
"""Where systemd keeps what is set of the slice until the next boot."""

POSSIBLE = Path("/sys/devices/system/cpu/possible")
"""The CPUs that can be plugged in (Documentation/admin-guide/cputopology.rst)."""

SET_APART = "root"
"""The state of a valid partition (`cpuset.cpus.partition`)."""

KTHREADD = 2
"""The parent of all kernel threads."""

STOP_USEC = 5_000_000
"""What a scope's tasks get between SIGTERM and SIGKILL."""
VANISH_SECONDS = 0.5
"""What an empty scope gets to go by itself, which is quicker than to be stopped."""


class LinuxScopes:
    """The real cgroup tree."""

    def confine(self, lent: frozenset[int]) -> None:
        """Give the slice exactly these CPUs, as a partition; with none, open the partition.

        The slice must get its CPUs, and give them up, while they are offline.
        """
        partition = CGROUP / SLICE / "cpuset.cpus.partition"
        if not lent:
            if partition.exists():
                partition.write_text("member")
            return
        if not _is_unified():
            raise OnlineImpossible("there is no cpuset controller in a cgroup v2 tree")
        _require_free(lent - self.cpus())
        systemd.start(SLICE)
        systemd.set_runtime(SLICE, systemd.cpu_mask("AllowedCPUs", lent))
        if _read(partition) != SET_APART:
            try:
                partition.write_text("member")
                partition.write_text(SET_APART)
            except OSError as error:
                raise OnlineImpossible(f"the partition failed: {error.strerror or error}") from error
        if (state := _read(partition)) != SET_APART:  # the write succeeds even when the result is invalid
            blame = f"; {', '.join(claims)} claims some of them (AllowedCPUs=)" if (claims := _claims(lent)) else ""
            raise OnlineImpossible(f"the partition of {cpus.named(lent)} is {state or 'not there'}{blame}")

    def start(self, lease: Lease) -> None:
        """Start the lease's scope with its holder in it, and wait until the holder is there.

        Raises:
            OSError: systemd refused, or the holder ended.
        """
        on = [systemd.text("Slice", SLICE), systemd.cpu_mask("AllowedCPUs", lease.cpus)] if lease.online else []
        systemd.start_transient(
            _scope(lease),
            systemd.text("Description", f"Enclave VM {lease.name or lease.id}"),
            systemd.numbers("PIDs", [lease.holder.pid]),
            systemd.duration("TimeoutStopUSec", STOP_USEC),
            systemd.text("CollectMode", "inactive-or-failed"),  # or one whose holder died on the way stays for ever
            *on,
        )
        if not _is_in(_read(Path(f"/proc/{lease.holder.pid}/cgroup")), _scope(lease)):
            raise OSError(0, f"the holder did not arrive in {_scope(lease)}")

    def stop(self, lease: Lease) -> None:
        """Stop the scope; systemd answers when its cgroup is empty.

        One whose last task has ended soon goes by itself. It does not always: a task that ends just when it is moved
        there can leave it behind.
        """
        deadline = time.monotonic() + VANISH_SECONDS
        while self.stands(lease):
            if time.monotonic() > deadline or _is_populated(lease):
                break
            time.sleep(0.01)
        else:
            return
        try:
            systemd.stop(_scope(lease))
        except OSError:
            if self.stands(lease):
                raise

    def stands(self, lease: Lease) -> bool:
        """Tell whether the lease's scope exists."""
        return _cgroup(lease).exists() if _is_unified() else _is_active(lease)

    def give_back_after(self, lease: Lease) -> None:
        """Start the unit that is bound to the scope: what ends it gives back. One that is started stays.

        Until it is started the scope's end would only cancel it, so that is waited for.
        """
        systemd.start(f"ali-enclaves-give-back@{lease.id}.service")

    def confined(self) -> frozenset[int]:
        """Return the slice's CPUs if it is a valid partition that the root does not share."""
        if _read(CGROUP / SLICE / "cpuset.cpus.partition") != SET_APART:
            return frozenset()
        return _cpus(CGROUP / SLICE / "cpuset.cpus.effective") - _cpus(CGROUP / "cpuset.cpus.effective")

    def cpus(self) -> frozenset[int]:
        """Return the slice's CPUs, whether or not it is a valid partition."""
        return _cpus(CGROUP / SLICE / "cpuset.cpus")

    def dissolve(self) -> None:
        """Give the slice up, and let every host task have those of its CPUs again that are online.

        On Linux 6.1 clearing the CPUs of a partition loses them to the host, so `member` comes first; and kernel
        threads, which live in the root, get them back only from a partition that opens while they are online.
        """
        partition = CGROUP / SLICE / "cpuset.cpus.partition"
        if partition.exists():
            ours, online = self.cpus(), _cpus(CGROUP / "cpuset.cpus.effective")
            if not ours & online <= os.sched_getaffinity(KTHREADD):
                partition.write_text(SET_APART)
            partition.write_text("member")
            with _unlike_the_root():
                systemd.set_runtime(SLICE, systemd.cpu_mask("AllowedCPUs", ()))
                systemd.stop(SLICE)
        if DROP_INS.exists():
            systemd.revert(SLICE)

    def has_slice(self) -> bool:
        """Tell whether the slice's cgroup or its drop-in is there."""
        return (CGROUP / SLICE).exists() or DROP_INS.exists()


@contextmanager
def _unlike_the_root() -> Iterator[None]:
    """Have no cgroup below the root agree with it about the CPUs, where there can be CPUs that are not online now.

    Those, unplugged ones too, are in no task's affinity now, and may come back when the cpusets are gone. A task that
    moves to the root gets every CPU that there can be, but the kernel passes over those whose cpuset has the same CPUs
    as the root. So each has a CPU less for that moment. Where somebody else keeps the cpusets, it has that back
    afterwards.
    """
    online = _cpus(CGROUP / "cpuset.cpus.effective")
    narrowed = []
    if _cpus(POSSIBLE) - online and len(online) > 1:
        for sibling in sorted(CGROUP.glob("*/cpuset.cpus")):
            if sibling.parent.name != SLICE and not _read(sibling):
                with suppress(OSError):  # such as EBUSY, for want of room for deadline tasks
                    sibling.write_text(cpus.format(online - {max(online)}))
                    narrowed.append(sibling)
    try:
        yield
    finally:
        for sibling in narrowed:
            with suppress(OSError), sibling.open("r+") as file:  # mostly it is gone
                file.write("\n")


def _require_free(lent: frozenset[int]) -> None:
    """Refuse CPUs that another cgroup claims, before the partition that other leases are in is touched.

    Raises:
        OnlineImpossible: names the cgroups.
    """
    if claims := _claims(lent):
        raise OnlineImpossible(f"{', '.join(claims)} claims some of {cpus.named(lent)} (AllowedCPUs=)")


def _claims(lent: frozenset[int]) -> list[str]:
    """Return the cgroups beside ours that were given some of these CPUs."""
    return [
        sibling.name
        for sibling in sorted(CGROUP.iterdir())
        if sibling.name != SLICE and lent & _cpus(sibling / "cpuset.cpus")
    ]


def _is_unified() -> bool:
    """Tell whether the tree is cgroup v2 with the cpuset controller."""
    return "cpuset" in _read(CGROUP / "cgroup.controllers").split()


def _is_in(cgroups: str, scope: str) -> bool:
    """Tell whether a process is in a scope; on cgroup v1 it has a cgroup in each hierarchy."""
    return any(line.endswith(f"/{scope}") for line in cgroups.splitlines())


def _scope(lease: Lease) -> str:
    return f"evm-{lease.id}.scope"


def _cgroup(lease: Lease) -> Path:
    return CGROUP / (SLICE if lease.online else "system.slice") / _scope(lease)


def _is_populated(lease: Lease) -> bool:
    """Tell whether a task is left in the scope; a zombie is none ("cgroup.events" in cgroup-v2.rst)."""
    return "populated 1" in _read(_cgroup(lease) / "cgroup.events") if _is_unified() else _is_active(lease)


def _is_active(lease: Lease) -> bool:
    """Tell whether systemd has the scope.

    One that ended stays loaded while what gives back after it is bound to it: to stop it again from there never ends.
    """
    return systemd.is_active(_scope(lease))


def _cpus(path: Path) -> frozenset[int]:
    """Return the CPUs that a cgroup's file lists."""
    return frozenset(cpus.parse(_read(path)))


def _read(path: Path) -> str:
    """Return a cgroup file's text; empty where there is none."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
