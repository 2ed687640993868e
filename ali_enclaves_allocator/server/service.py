"""The service behind the interface: answers from the pool as it stands and tells watchers of every change."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from ali_enclaves_allocator.model.errors import AllocatorError
from ali_enclaves_allocator.server.contract import Call, Method, Nothing, VarlinkError
from ali_enclaves_allocator.server.interface import (
    NAME,
    NotPermitted,
    PoolReply,
    PoolView,
    ReloadFailed,
)


class Service:
    """The methods of `io.ali-enclaves.Allocator`.

    `view` returns the pool as it stands; `reload` brings the configuration file into force or raises
    AllocatorError.
    """

    def __init__(self, view: Callable[[], PoolView], reload: Callable[[], Awaitable[None]]) -> None:
        self._view = view
        self._reload = reload
        self._changed = asyncio.Event()

    @property
    def methods(self) -> tuple[Method[Nothing, PoolReply], ...]:
        """The methods as the Varlink server takes them."""
        return (
            Method("GetPool", self.get_pool, Nothing, PoolReply),
            Method("Watch", self.watch, Nothing, PoolReply),
            Method("Reload", self.reload, Nothing, PoolReply),
        )

    def publish(self) -> None:
        """Wake every watcher; each is told if what it would see is new to it."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def get_pool(self, _call: Call, _: Nothing) -> PoolReply:
        """Return the state of the pool, node by node. Anyone may ask."""
        return PoolReply(pool=self._view())

    async def watch(self, _call: Call, _: Nothing) -> AsyncGenerator[PoolReply, None]:
        """Return the pool now, and again after each change. Anyone may ask."""
        told = None
        while True:
            changed = self._changed
            view = self._view()
            if view != told:
                yield PoolReply(pool=view)
                told = view
            await changed.wait()

    async def reload(self, call: Call, _: Nothing) -> PoolReply:
        """Read the configuration file again and bring it into force, or change nothing. Root may ask."""
        if call.peer.uid != 0:
            denied = NotPermitted(need="root", message=f"cannot reload: got uid {call.peer.uid}, wanted root")
            raise VarlinkError(f"{NAME}.NotPermitted", denied.model_dump())
        try:
            await self._reload()
        except AllocatorError as error:
            failed = ReloadFailed(kind=type(error).__name__, exit_code=error.exit_code, message=str(error))
            raise VarlinkError(f"{NAME}.ReloadFailed", failed.model_dump()) from error
        return PoolReply(pool=self._view())
