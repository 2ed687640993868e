"""The enclaves of this machine, as their leases tell: what they are called, and how they end."""

import contextlib
import json
import os
import select
import signal
import stat
import time

from enclave_cli import allocator, failure, paths, users
from enclave_cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

UNKNOWN_INSTANCE = "i-0000000000000000"
INSTANCE_ID = "/var/lib/cloud/data/instance-id"
"""Where cloud-init leaves the id of a cloud instance."""

MOST_ANNOTATION_BYTES = 1000
GRACE_SECONDS = 10.0
END_SECONDS = 60.0
POLL_SECONDS = 0.1


def annotations(cid: int, image: str, debug: bool, measurements: dict[str, str]) -> "dict[str, Any]":
    """Return what goes with a lease, so that everyone sees it: what only the launcher knows."""
    path = os.fsencode(os.path.abspath(image)).decode(errors="replace")  # a path may hold any bytes, JSON text only
    told = {"cid": cid, "debug": debug, "image": path, "instance": instance_id()}
    told["measurements"] = measurements
    while len(json.dumps(told)) > MOST_ANNOTATION_BYTES:
        told["image"] = f"…{str(told['image'])[16:]}"
    return told


def instance_id() -> str:
    """Return the id of this cloud instance, or zeros where it is not known."""
    try:
        with open(INSTANCE_ID, encoding="ascii") as file:
            found = file.read(64).strip()
    except (OSError, ValueError):
        return UNKNOWN_INSTANCE
    return found if _is_instance(found) else UNKNOWN_INSTANCE


def _is_instance(text: object) -> bool:
    """Tell whether this looks like the id of an instance; a holder may annotate its lease with anything."""
    return isinstance(text, str) and text.isascii() and text.startswith("i-") and text[2:].isalnum()


def enclave_id(lease: "dict[str, Any]") -> str:
    """Return the id of the enclave that holds a lease; its hexadecimal part is the lease's id."""
    instance = lease["annotations"].get("instance")
    return f"{instance if _is_instance(instance) else UNKNOWN_INSTANCE}-enc{lease['id']}"


def started(lease: "dict[str, Any]") -> "dict[str, Any]":
    """Return what `run-enclave` prints of an enclave."""
    return {
        "EnclaveName": lease["name"],
        "EnclaveID": enclave_id(lease),
        "ProcessID": lease["holder"]["pid"],
        "EnclaveCID": lease["annotations"].get("cid"),
        "NumberOfCPUs": len(lease["cpus"]),
        "CPUIDs": lease["cpus"],
        "MemoryMiB": lease["memory_mib"],
    }


def described(lease: "dict[str, Any]") -> "dict[str, Any]":
    """Return what `describe-enclaves` prints of an enclave."""
    more = {
        "State": "RUNNING" if lives(lease["holder"]["pid"]) else "TERMINATING",
        "Flags": "DEBUG_MODE" if lease["annotations"].get("debug") else "NONE",
        "Measurements": lease["annotations"].get("measurements", {}),
    }
    return started(lease) | more


def find(enclave: str | None, name: str | None) -> "dict[str, Any]":
    """Return the lease of one enclave, by its id or its name. Raises Failure."""
    leases = allocator.leases()
    found = [lease for lease in leases if _is(lease, enclave, name)]
    if len(found) == 1:
        return found[0]
    what, asked = ("name", name) if enclave is None else ("id", enclave)
    wanted = f"{what} {asked or repr(asked)}"
    if found:
        which = ", ".join(map(enclave_id, found))
        raise Failure(
            failure.NO_SUCH_ENCLAVE,
            f"cannot choose: {len(found)} enclaves have the {wanted} (choose one by --enclave-id: {which})",
        )
    told = dict.fromkeys((enclave is None and lease["name"]) or enclave_id(lease) for lease in leases)
    there = ", ".join(told) or "none"
    raise Failure(failure.NO_SUCH_ENCLAVE, f"cannot find an enclave with the {wanted}; running: {there}")


def new_directory(lease: str) -> str:
    """Return the path for a new enclave's directory.

    Everyone may know the lease's id before the directory is there, and any member of the group may take a name here
    first: so the name has a part that nobody can know.
    """
    return os.path.join(paths.RUN, f"{lease}.{os.urandom(8).hex()}")


def directory(lease: "dict[str, Any]") -> str:
    """Return the directory of an enclave, private to its user; of what others call so none is the user's.

    Where it is not there, a path that is not there either.
    """
    with contextlib.suppress(OSError), os.scandir(paths.RUN) as entries:
        for entry in entries:
            if _lease_of(entry.name) == lease["id"] and _is_directory_of(entry, lease["holder"]["uid"]):
                return entry.path
    return os.path.join(paths.RUN, lease["id"])


def _is_directory_of(entry: "os.DirEntry[str]", uid: int) -> bool:
    """Tell whether this is a directory of a user's; what has gone meanwhile is none."""
    with contextlib.suppress(OSError):
        found = entry.stat(follow_symlinks=False)
        return stat.S_ISDIR(found.st_mode) and found.st_uid == uid
    return False


def _lease_of(name: str) -> str:
    return name.partition(".")[0]


def remove_directory(path: str) -> None:
    """Remove an enclave's directory, if it is there and ours.

    Any member of the group may have put a link in its place, to where root's files are: it is not followed.
    """
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            for name in os.listdir(fd):
                os.unlink(name, dir_fd=fd)
        finally:
            os.close(fd)
        os.rmdir(path)


def clear_away() -> None:
    """Remove what ended enclaves of this user have left. Raises Failure."""
    try:
        there = [entry for entry in os.scandir(paths.RUN) if entry.stat(follow_symlinks=False).st_uid == os.geteuid()]
    except OSError:
        return
    if there:
        held = {lease["id"] for lease in allocator.leases()}
        for entry in there:
            if _lease_of(entry.name) not in held:
                remove_directory(entry.path)


def terminate(lease: "dict[str, Any]") -> "dict[str, Any]":
    """End an enclave, wait until its lease is gone, and return what is printed. Raises Failure."""
    try:
        pidfd = os.pidfd_open(lease["holder"]["pid"])
    except (OSError, ValueError):
        pidfd = None  # it has ended, or lives where we cannot see it
    try:
        if pidfd is not None and _is_held(lease["id"]):  # so it was this process when it was opened
            _end(lease, pidfd)
        elif not lease["holder"]["pid"]:
            _release(lease)
    finally:
        if pidfd is not None:
            os.close(pidfd)
    deadline = time.monotonic() + END_SECONDS
    while _is_held(lease["id"]) or _is_being_given_back(lease["cpus"]):
        if time.monotonic() > deadline:
            raise Failure(
                failure.NOT_STARTED,
                f"cannot end {enclave_id(lease)}: the pool has not got its part back after {END_SECONDS:g} s "
                f"(see: systemctl status evm-{lease['id']}.scope)",
            )
        time.sleep(POLL_SECONDS)
    remove_directory(directory(lease))
    return {"EnclaveName": lease["name"], "EnclaveID": enclave_id(lease), "Terminated": True}


def _end(lease: "dict[str, Any]", pidfd: int) -> None:
    """Ask QEMU to end, then the process, then the kernel; what is another user's is the allocator's to decide."""
    try:
        if "cid" not in lease["annotations"]:
            raise PermissionError("not started by this program")
        if not _will_quit(lease):
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        if not select.select([pidfd], [], [], GRACE_SECONDS)[0]:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass
    except PermissionError:
        _release(lease)


def _release(lease: "dict[str, Any]") -> None:
    """Have the allocator end it. Raises Failure: what it refuses as another user's is told with whose it is."""
    try:
        allocator.release(lease["id"])
    except Failure as error:
        if error.status != failure.NOT_PERMITTED:
            raise
        raise users.not_theirs(f"end {enclave_id(lease)}", lease["holder"]["uid"]) from None


def _will_quit(lease: "dict[str, Any]") -> bool:
    """Ask QEMU to quit, and tell whether it heard.

    Only where it is this user's: what root finds in another's directory may be the way to a third one's monitor.
    """
    from enclave_cli.qemu import Monitor

    if lease["holder"]["uid"] != os.geteuid():
        return False
    try:
        monitor = Monitor(os.path.join(directory(lease), paths.MONITOR), timeout=GRACE_SECONDS)
        with contextlib.closing(monitor):
            monitor.execute("quit")
    except OSError:
        return False
    return True


def _is_held(lease: str) -> bool:
    return any(other["id"] == lease for other in allocator.leases())


def _is_being_given_back(cpus: list[int]) -> bool:
    """Tell whether CPUs still count as lent although nobody holds them: the allocator is taking them back."""
    held = {cpu for lease in allocator.leases() for cpu in lease["cpus"]}
    cores = [core for node in allocator.call("GetPool")["pool"]["nodes"] for core in node["cores"]]
    lent = {cpu for core in cores if core["use"] == "leased" for cpu in core["cpus"]}
    return bool(set(cpus) & lent - held)


def _is(lease: "dict[str, Any]", enclave: str | None, name: str | None) -> bool:
    if enclave is not None:
        return enclave in (enclave_id(lease), lease["id"])
    return bool(lease["name"] == name)


def lives(pid: int) -> bool:
    """Tell whether a process lives; one that cannot be seen does."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except FileNotFoundError:
        return not pid
    except OSError:
        return True
