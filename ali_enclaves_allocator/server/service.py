"""The service behind the interface: answers from the pool as it stands and tells watchers of every change."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import fields
from typing import Any, Protocol

from pydantic import BaseModel, Field, create_model

from ali_enclaves_allocator.model import refusals
from ali_enclaves_allocator.model.errors import AllocatorError
from ali_enclaves_allocator.model.lease import Request
from ali_enclaves_allocator.model.pool import Lease
from ali_enclaves_allocator.model.tally import ACQUIRE_REFUSALS
from ali_enclaves_allocator.server.contract import Call, Interface, Method, Nothing, Peer, Reply, VarlinkError
from ali_enclaves_allocator.server.idl import docstrings, render
from ali_enclaves_allocator.server.interface import (
    NAME,
    AcquireParameters,
    AcquireReply,
    LeaseName,
    LeasesReply,
    PoolReply,
    PoolView,
    ReloadFailed,
    WatchReply,
)
from ali_enclaves_allocator.server.views import lease_view

ABOUT = "The cores and hugepages of this machine that are set aside for enclave VMs, and who holds them."

LENDING_ERRORS = (*ACQUIRE_REFUSALS, refusals.NoSuchLease)
"""The errors that Acquire, Release and Reload answer with, beside ReloadFailed."""


MOVING: Any = {"pool": {"nodes": {"__all__": {"available_mib": True}}}}
"""What a watcher is told along with a change, but not woken for."""


class Allocator(Protocol):
    """What the service asks of whoever owns the pool. Everything that fails raises AllocatorError."""

    def view(self) -> PoolView:
        """Return the pool as it stands."""

    def leases(self) -> tuple[Lease, ...]:
        """Return the leases that exist, the oldest first."""

    async def reload(self) -> None:
        """Bring the configuration file into force, or change nothing."""

    async def acquire(self, request: Request, peer: Peer) -> tuple[Lease, int]:
        """Lend to the process that connected; return the lease and the fd of its memory."""

    async def release(self, id: str, peer: Peer) -> None:
        """End a lease."""


class Service:
    """The methods of `io.ali-enclaves.Allocator`."""

    def __init__(self, allocator: Allocator) -> None:
        self._allocator = allocator
        self._changed = asyncio.Event()
        self._told: PoolReply | None = None
        """What GetPool answers as long as the view is the same: a reply that is sent again is written only once."""

    def interface(self) -> Interface:
        """Return the methods and the errors, with their description."""
        methods: tuple[Method[Any, Any], ...] = (
            Method("GetPool", self.get_pool, Nothing, PoolReply),
            Method("ListLeases", self.list_leases, Nothing, LeasesReply),
            Method("Watch", self.watch, Nothing, WatchReply),
            Method("Acquire", self.acquire, AcquireParameters, AcquireReply),
            Method("Release", self.release, LeaseName, Nothing),
            Method("Reload", self.reload, Nothing, PoolReply),
        )
        return Interface(NAME, methods, lambda: render(NAME, methods, _errors(), ABOUT))

    def publish(self) -> None:
        """Wake every watcher; each is told if what it would see is new to it."""
        self._changed.set()
        self._changed = asyncio.Event()

    def get_pool(self, _call: Call, _: Nothing) -> PoolReply:
        """Return the state of the pool, node by node. Anyone may ask."""
        view = self._allocator.view()
        if self._told is None or self._told.pool is not view:
            self._told = PoolReply(pool=view)
        return self._told

    def list_leases(self, _call: Call, _: Nothing) -> LeasesReply:
        """Return every lease. Anyone may ask."""
        return LeasesReply(leases=[lease_view(lease) for lease in self._allocator.leases()])

    async def watch(self, _call: Call, _: Nothing) -> AsyncGenerator[WatchReply, None]:
        """Return the pool and its leases now, and again after each change. Anyone may ask.

        Free memory moves all the time; that alone is no change.
        """
        told: dict[str, Any] | None = None
        while True:
            changed = self._changed
            leases = [lease_view(lease) for lease in self._allocator.leases()]
            now = WatchReply(pool=self._allocator.view(), leases=leases)
            if (key := now.model_dump(exclude=MOVING)) != told:
                yield now
                told = key
            await changed.wait()

    async def acquire(self, call: Call, parameters: AcquireParameters) -> Reply[AcquireReply]:
        """Lend a part of the pool to the process that connected, until it ends: all of what is asked, or nothing.

        Root and members of group `de` may ask. The holder becomes the EVM by exec: there is nothing to hand over.
        """
        request = Request(
            memory_mib=parameters.memory_mib,
            cpu_count=parameters.cpu_count,
            cpus=tuple(parameters.cpus) if parameters.cpus else None,
            node=parameters.node,
            name=parameters.name,
            online=parameters.online,
            annotations=parameters.annotations or {},
        )
        try:
            lease, memory = await self._allocator.acquire(request, call.peer)
        except AllocatorError as error:
            raise _on_the_wire(error) from error
        return Reply(AcquireReply(lease=lease_view(lease), memory_fd=0), fds=[memory])

    async def release(self, call: Call, parameters: LeaseName) -> Nothing:
        """End a lease and its tasks; its memory is cleared afterwards. Its holder's user and root may ask."""
        try:
            await self._allocator.release(parameters.lease, call.peer)
        except AllocatorError as error:
            raise _on_the_wire(error) from error
        return Nothing()

    async def reload(self, call: Call, _: Nothing) -> PoolReply:
        """Read the configuration file again and bring it into force, or change nothing. Root may ask."""
        if call.peer.uid != 0:
            raise _on_the_wire(refusals.NotPermitted("root", "reload", call.peer.uid))
        try:
            await self._allocator.reload()
        except AllocatorError as error:
            failed = ReloadFailed(kind=type(error).__name__, exit_code=error.exit_code, message=str(error))
            raise VarlinkError(f"{NAME}.ReloadFailed", failed.model_dump()) from error
        return PoolReply(pool=self._allocator.view())


def _on_the_wire(error: AllocatorError) -> VarlinkError:
    """Turn an error into the reply of the same name."""
    return VarlinkError(f"{NAME}.{type(error).__name__}", error.parameters() | {"message": str(error)})


def _errors() -> tuple[type[BaseModel], ...]:
    """Return the errors as they travel."""
    return (*map(_wire_error, LENDING_ERRORS), ReloadFailed)


def _wire_error(error: type[AllocatorError]) -> type[BaseModel]:
    """Describe an error as it travels: its own fields, and the text for people."""
    docs = docstrings(error)
    told: dict[str, Any] = {f.name: (f.type, Field(description=docs.get(f.name))) for f in fields(error)}
    told["message"] = (str, Field(description="for people: what, got and wanted, the state now, what to do"))
    return create_model(error.__name__, __doc__=error.__doc__, **told)
