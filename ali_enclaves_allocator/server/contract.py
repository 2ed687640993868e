"""What a Varlink service is made of: interfaces of methods, each with its handler and its models.

Types are the schema: `varlink` validates calls by them, `idl` describes them to clients.
"""

import inspect
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

SERVICE = "org.varlink.service"
"""The interface that every Varlink service has; the errors of the protocol belong to it."""


class InternalError(BaseModel):
    """The service failed; the reason is in its log."""


class VarlinkError(Exception):
    """An error reply, raised by a handler: a qualified name (`org.example.Ping.TooLate`) and its fields."""

    def __init__(self, name: str, parameters: dict[str, Any] | None = None) -> None:
        self.name, self.parameters = name, parameters or {}
        super().__init__(self.name, self.parameters)


@dataclass(frozen=True)
class Peer:
    """The process that called connect, with the ids it had then (SO_PEERCRED in unix(7)).

    `pid` is 0 if it lives outside our pid namespace. `sock` is for SO_PEERPIDFD only and stays the server's.
    `accepted_ns` is when it was accepted, from boot: who has started since is another process with its pid.
    """

    pid: int
    uid: int
    gid: int
    sock: socket.socket = field(repr=False, compare=False)
    accepted_ns: int = field(default_factory=lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME), compare=False)


@dataclass(frozen=True)
class Call:
    """What a handler knows of a call beside its parameters: who calls, the qualified method, and `more`."""

    peer: Peer
    method: str
    more: bool


class Parameters(BaseModel, strict=True, extra="forbid", frozen=True):
    """What the parameters of every method derive from: nothing is coerced, unknown fields are refused."""


class Nothing(Parameters):
    """No parameters; or, of a reply, none."""


P = TypeVar("P", bound=Parameters)
R = TypeVar("R", bound=BaseModel)


@dataclass(frozen=True)
class Reply(Generic[R]):
    """A reply that is more than its model; a handler may give the bare model instead.

    `fds` belong to the server from here on: it closes them when they are sent, or cannot be. The model names
    them by index. `last` ends a stream.
    """

    model: R
    fds: Sequence[int] = ()
    last: bool = False


@dataclass(frozen=True)
class Method(Generic[P, R]):
    """One method: its name without the interface, its handler, the models of what goes in and comes out.

    A plain function answers in the turn of the loop in which the call arrives, and so waits for nothing. An async
    generator makes a stream: it must be called with `more`, and is cancelled when its client closes or
    falls too far behind, or when the server closes. Every reply `continues`, except a `Reply(last=True)`.
    """

    name: str
    handler: Callable[[Call, P], R | Reply[R] | Awaitable[R | Reply[R]] | AsyncGenerator[R | Reply[R], None]]
    parameters: type[P]
    reply: type[R]

    @cached_property
    def stream(self) -> bool:
        """Whether the handler is an async generator."""
        return inspect.isasyncgenfunction(self.handler)

    @cached_property
    def at_once(self) -> bool:
        """Whether the handler is a plain function."""
        return not (self.stream or inspect.iscoroutinefunction(self.handler))

    def parse(self, raw: dict[str, Any] | None) -> P:
        """Turn raw parameters into their model. Raises VarlinkError, which names the first bad one."""
        try:
            return self.parameters.model_validate_json(to_json(raw or {}))
        except ValidationError as error:
            where = error.errors(include_url=False, include_context=False, include_input=False)[0]["loc"]
            bad = str(where[0]) if where else "parameters"
            raise VarlinkError(f"{SERVICE}.InvalidParameter", {"parameter": bad}) from None


@dataclass(frozen=True)
class Interface:
    """An interface: its dotted name, its methods, and what renders its description, as `idl.render` does."""

    name: str
    methods: Sequence[Method[Any, Any]]
    describe: Callable[[], str] = field(repr=False, compare=False)

    @cached_property
    def description(self) -> str:
        """It in Varlink's own language: rendered when somebody asks, not when the service starts."""
        return self.describe()
