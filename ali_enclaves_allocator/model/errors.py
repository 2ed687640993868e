"""The errors a user can meet: types with numbers in them.

Each one renders as `what; outcome`, then a hint in brackets: what failed with what was got and wanted, the state
the system is in now, and what to do. The fields travel over the socket as the parameters of a Varlink error of
the same name.
"""

import errno
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from ali_enclaves_allocator.model.cpus import named

EX_UNAVAILABLE = 69
"""Exit status when the machine cannot give what the file asks for (sysexits.h)."""

EX_CONFIG = 78
"""Exit status when the configuration file is refused (sysexits.h)."""


@dataclass
class AllocatorError(Exception):
    """Any error that a user can meet and act on."""

    exit_code: ClassVar[int] = EX_UNAVAILABLE
    outcome = "nothing was changed"
    """The state of the system after the error; whoever changed something says so."""

    def what(self) -> str:
        """Return the sentence: what failed, what was got and wanted."""
        raise NotImplementedError

    def hint(self) -> str:
        """Return what to do about it, or an empty string."""
        return ""

    def parameters(self) -> dict[str, Any]:
        """Return the fields as plain values, as they travel over the socket."""
        return asdict(self)

    def __str__(self) -> str:
        hint = self.hint()
        return f"{self.what()}; {self.outcome}" + (f"\n  ({hint})" if hint else "")


@dataclass
class ConfigUnreadable(AllocatorError):
    """The configuration file is not there, or cannot be read."""

    exit_code: ClassVar[int] = EX_CONFIG
    path: str
    reason: str
    number: int = 0
    """The error number of the reason, where it has one: whether the file is at fault."""

    def what(self) -> str:
        """Name the file and the reason."""
        return f"cannot read {self.path}: {self.reason}"

    def hint(self) -> str:
        """Show the shortest file where there is none; one that could not be looked at may be right."""
        if self.number == errno.EISDIR:
            return "wanted a file: name it, or remove the directory that is in its place"
        if self.number in (errno.ENOENT, errno.ENOTDIR):
            return "the shortest file is two lines: memory_mib: 1024 and cpu_count: 2"
        if self.number in (errno.EACCES, errno.EPERM):
            return f"it must be readable for who reads it, and root is who serves: ls -l {self.path}"
        return "the file itself may be right: mend what is in the way of reading it, then try again"


@dataclass
class Misfit(AllocatorError):
    """A value of the file that is well formed but does not suit this machine, whatever is free on it."""

    exit_code: ClassVar[int] = EX_CONFIG
    key: str
    """The key of allocator.yaml to correct."""
    message: str
    """What was got and wanted."""

    def what(self) -> str:
        """Name the key and what is wrong with its value."""
        return f"{self.key}: {self.message}"


def page_size(page_kib: int) -> str:
    """Name a hugepage size as users write it: `2M`, `1G`."""
    return f"{page_kib >> 20}G" if page_kib >= 1 << 20 else f"{page_kib >> 10}M"


@dataclass
class ShortGrant(AllocatorError):
    """The kernel reserved fewer hugepages than it was asked for."""

    node: int
    page_kib: int
    granted: int
    wanted: int

    def what(self) -> str:
        """Give the pages granted and wanted."""
        size = page_size(self.page_kib)
        return f"cannot reserve: kernel granted {self.granted} of {self.wanted} {size} pages on node {self.node}"

    def hint(self) -> str:
        """Advise against fragmentation."""
        advice = "memory is in pieces: enable the service, so that it starts at boot, when least is"
        return advice + (", or use hugepage_size: 2M" if self.page_kib > 2048 else ", or ask for less")


@dataclass
class PagesTaken(AllocatorError):
    """Other programs took pages in the moment between their reservation and ours holding them."""

    node: int
    """Where they lie."""
    page_kib: int
    """Their size."""
    held: int
    """How many are held."""
    wanted: int
    """How many were to be."""

    def what(self) -> str:
        """Give the pages held and wanted."""
        size = page_size(self.page_kib)
        return f"cannot hold the pool's pages: got {self.held} of {self.wanted} {size} pages on node {self.node}"

    def hint(self) -> str:
        """Say who may have taken them."""
        return "other programs took hugepages at the same moment; try again"


@dataclass
class CpuRefused(AllocatorError):
    """The kernel refused to take a CPU offline or bring it online."""

    cpu: int
    """The CPU."""
    online: bool
    """Whether it was to come online, or go offline."""
    reason: str
    """The kernel's reason."""
    tasks: list[str]
    """Tasks that hold the CPU by a SCHED_DEADLINE reservation, as `comm[tid]`."""

    def what(self) -> str:
        """Name the CPU, the kernel's reason and the tasks."""
        blame = f", held by {', '.join(self.tasks)}" if self.tasks else ""
        return f"cannot take CPU {self.cpu} {'online' if self.online else 'offline'}: {self.reason}{blame}"

    def hint(self) -> str:
        """Advise on deadline tasks."""
        return "a SCHED_DEADLINE task reserves its CPUs: stop it or change its policy (chrt)" if self.tasks else ""


@dataclass
class DriverRefused(AllocatorError):
    """The driver `nitro_enclaves` refused to take or to give up CPUs."""

    cpus: list[int]
    """Those that it was to have."""
    former: list[int]
    """Those that it had."""
    reason: str
    """What it says."""
    busy: bool
    """Whether an enclave runs on those that it has."""

    def what(self) -> str:
        """Name the CPUs and the driver's reason."""
        return f"cannot give the nitro_enclaves driver {named(self.cpus)}: {self.reason}, it had {named(self.former)}"

    def hint(self) -> str:
        """Say what is in the way, or who knows."""
        if self.busy:
            return "an enclave runs on its CPUs, which end with none: nitro-cli terminate-enclave --all, then try again"
        return "its own reason is in the kernel's log: journalctl -k -g nitro_enclaves"


@dataclass
class KernelRefused(AllocatorError):
    """The kernel or systemd refused another step."""

    step: str
    """What was to be done."""
    reason: str
    """What the kernel or systemd says."""
    silent: bool = False
    """Whether systemd did not answer at all, so that what it was asked for may happen still."""

    @classmethod
    def of(cls, step: str, error: OSError) -> "KernelRefused":
        """Return the error for a step that failed with an error of the kernel's, or of systemd's silence."""
        return cls(step, error.strerror or str(error), isinstance(error, (TimeoutError, ConnectionResetError)))

    def what(self) -> str:
        """Name the step and the reason."""
        return f"cannot {self.step}: {self.reason}"

    def hint(self) -> str:
        """Say where to look when systemd hangs, how the pool stands, and how to go on."""
        look = "does systemd hang? see: systemctl status, journalctl -b _PID=1; once it answers, see the pool's state"
        return f"{look}: ali-enclaves-allocator status, and mend it by a restart of the service" if self.silent else ""


@dataclass
class LeaseInTheWay(AllocatorError):
    """The file asks for a pool that cannot be had without cutting a lease."""

    leases: list[str]

    def what(self) -> str:
        """Name the leases."""
        return f"cannot change the pool as asked beside running enclaves: {', '.join(self.leases)}"

    def hint(self) -> str:
        """Say what ends a lease."""
        return (
            "an enclave keeps its cores and its pages on their node: ask for what fits beside them, let the pool have "
            "more nodes by max_enclaves, or end the enclave first: enclave-cli terminate-enclave"
        )


@dataclass
class NotGivenBack(AllocatorError):
    """Some of what was to be given back to the host is still refused by the kernel."""

    left: list[str]
    of: str
    outcome = "the ledger keeps it, and the next start or restart tries again"

    def what(self) -> str:
        """Name every step that is left."""
        return f"cannot give back {self.of}: {'; '.join(self.left)}"


@dataclass
class LedgerUnreadable(AllocatorError):
    """The ledger is not one that this version understands; guessing could cost cores and pages."""

    path: str
    reason: str
    outcome = "nothing was changed, and what it describes stays as it is"

    def what(self) -> str:
        """Name the file and what is wrong with it."""
        return f"cannot read the ledger {self.path}: {self.reason}"

    def hint(self) -> str:
        """Name both ways out."""
        return "start the version that wrote it, or reboot: the ledger and all it describes end with the boot"


@dataclass
class AlreadyRunning(AllocatorError):
    """Another allocator holds the lock of the run directory."""

    path: str

    def what(self) -> str:
        """Name the lock."""
        return f"cannot start: another allocator holds {self.path}"

    def hint(self) -> str:
        """Name the command that shows it."""
        return "systemctl status ali-enclaves-allocator"
