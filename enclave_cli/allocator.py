"""Calls to the allocator, with its errors turned into what a user is told."""

import errno
import os

from enclave_cli import failure, paths
from enclave_cli.client import CallError, Client, Unavailable
from enclave_cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Lease = dict[str, Any]

INTERFACE = "io.ali-enclaves.Allocator"

ACQUIRE_SECONDS = 300.0
"""How long a lease may take: its pages are cleared, and its CPUs started."""

STATUS = {
    "InsufficientCpus": failure.POOL_REFUSED,
    "InsufficientMemory": failure.POOL_REFUSED,
    "LeaseLimitReached": failure.POOL_REFUSED,
    "LeasesDisabled": failure.POOL_REFUSED,
    "NotWholeCores": failure.POOL_REFUSED,
    "PoolNotReady": failure.POOL_REFUSED,
    "OnlineImpossible": failure.POOL_REFUSED,
    "CpuRefused": failure.POOL_REFUSED,
    "KernelRefused": failure.POOL_REFUSED,
    "HolderGone": failure.NOT_STARTED,
    "NotPermitted": failure.NOT_PERMITTED,
    "NoSuchLease": failure.NO_SUCH_ENCLAVE,
    "InvalidRequest": failure.USAGE,
    "InvalidParameter": failure.USAGE,
}
"""The exit status for each error of the allocator; any other is as good as no answer."""


def leases() -> "list[Lease]":
    """Return all leases. Raises Failure."""
    return list(call("ListLeases")["leases"])


def release(lease: str) -> None:
    """End a lease. Raises Failure."""
    call("Release", {"lease": lease})


def call(method: str, parameters: "dict[str, Any] | None" = None) -> "dict[str, Any]":
    """Call a method and return its reply. Raises Failure."""
    try:
        with Client(paths.SOCKET) as client:
            return client.call(f"{INTERFACE}.{method}", parameters)
    except (CallError, Unavailable) as error:
        raise failure_of(error) from None


def acquire(request: "dict[str, Any]") -> "tuple[Lease, int]":
    """Take a lease for this process; return it and the descriptor of its memory. Raises Failure."""
    try:
        with Client(paths.SOCKET, timeout=ACQUIRE_SECONDS) as client:
            reply, fds = client.call_for_fds(f"{INTERFACE}.Acquire", request)
    except (CallError, Unavailable) as error:
        raise failure_of(error) from None
    memory = fds.pop(reply["memory_fd"])
    for other in fds:
        os.close(other)
    return reply["lease"], memory


def failure_of(error: CallError | Unavailable) -> Failure:
    """Return what the user is told about an error of the service, or about its silence."""
    if isinstance(error, Unavailable):
        stopped = (
            "it is not running: systemctl start ali-enclaves-allocator; "
            "enclaves that live on without it: ali-enclaves-allocator status"
        )
        hint = {
            errno.ENOENT: stopped,
            errno.ECONNREFUSED: stopped,
            errno.EACCES: "this user may not connect to it",
        }.get(error.errno or 0, "see: systemctl status ali-enclaves-allocator")
        return Failure(
            failure.SERVICE_UNAVAILABLE, f"cannot ask the allocator at {error.filename}: {error.strerror} ({hint})"
        )
    name = error.name.rpartition(".")[2]
    told = error.parameters.get("message") or f"the allocator answered {error.name} {error.parameters or ''}".strip()
    return Failure(STATUS.get(name, failure.SERVICE_UNAVAILABLE), str(told))
