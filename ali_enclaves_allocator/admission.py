"""Admission: who may ask for a lease, and what requests make sense. Whether there is one to have is the lender's."""

import asyncio
import grp
import json

from pydantic_core import from_json

from ali_enclaves_allocator.kernel import peers
from ali_enclaves_allocator.model.errors import KernelRefused
from ali_enclaves_allocator.model.lease import Request
from ali_enclaves_allocator.model.refusals import InvalidRequest, NotPermitted
from ali_enclaves_allocator.server.contract import Peer

GROUP = "de"
"""Members may take leases without being root."""

ANNOTATION_BYTES = 1024

LEDGER_DEPTH = 8
"""How deep annotations lie in the ledger and in the replies, at most: JSON is read to a limited depth."""


class Admission:
    """The door to the lender. It looks the group up for one caller at a time, whatever a directory service does."""

    def __init__(self) -> None:
        self._looking_up = asyncio.Lock()

    async def require(self, request: Request, peer: Peer) -> None:
        """Let root and members of the group pass, with a request that makes sense.

        Supplementary groups count, as they were at connect.

        Raises:
            NotPermitted: the caller is neither.
            InvalidRequest: names the parameter.
            KernelRefused: the kernel does not tell the caller's groups.
        """
        if peer.uid != 0 and not await self._is_member(peer):
            raise NotPermitted(f"root or group {GROUP}", "acquire", peer.uid)
        _require_sense(request)

    async def _is_member(self, peer: Peer) -> bool:
        """Ask beside the event loop, and leave threads to others."""
        async with self._looking_up:
            wanted = await asyncio.to_thread(_group_id)
        try:
            return wanted == peer.gid or wanted in peers.groups(peer.sock)
        except OSError as error:
            raise KernelRefused.of("read the caller's groups", error) from error


def _group_id() -> int:
    """Return the id of the group; -1, which is nobody's, where there is none."""
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return -1


def _require_sense(request: Request) -> None:
    """Refuse a request that contradicts itself.

    Raises:
        InvalidRequest: names the parameter.
    """
    try:
        text = json.dumps(request.annotations, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        from_json(b"[" * LEDGER_DEPTH + text + b"]" * LEDGER_DEPTH)
    except ValueError as error:  # such as 1e400, which the wire takes for infinity
        raise InvalidRequest("annotations", "got a number or a depth that the ledger could not hold") from error
    if len(text) > ANNOTATION_BYTES:
        raise InvalidRequest("annotations", f"got more than {ANNOTATION_BYTES} bytes of JSON")
    if (request.cpus is None) == (request.cpu_count is None):
        raise InvalidRequest("cpu_count", "wanted either cpu_count or cpus")
