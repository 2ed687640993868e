"""The descriptions of interfaces: what they say, and that foreign libraries read them like that."""

import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from enum import Enum, StrEnum
from types import GenericAlias
from typing import Annotated, Any, Literal, TypedDict

import asyncvarlink
import asyncvarlink.serviceinterface
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, create_model
from varlink import scanner  # type: ignore[import-untyped]

from ali_enclaves_allocator.server.idl import render
from ali_enclaves_allocator.server.introspection import Info, service_interface
from ali_enclaves_allocator.server.varlink import Call, Interface, Method, Nothing, Parameters


class State(StrEnum):
    """How far it is.

    In two paragraphs.
    """

    ready = "ready"
    not_yet = "not_yet"


class Leg(BaseModel):
    """A part of a journey."""

    distance_km: float
    """How far it is."""


class Journey(BaseModel):
    """A journey of many legs."""

    legs: list[Leg] = Field(description="one after another\nin order")
    detours: dict[str, Leg] | None


class Start(Parameters):
    """What a journey starts with."""

    name: Annotated[str, Field(min_length=1)] = Field(description="what to call it")
    days: int | None = None
    kind: Literal["long", "short"] | None = None
    luggage: dict[str, Any] | None = None


class Ticket(BaseModel):
    """What comes back."""

    state: State
    paid: bool
    route: tuple[int, ...]
    anything: Any


@dataclass
class Delayed(Exception):
    """The journey is late."""

    by: int
    """Minutes."""
    reasons: list[str]
    ticket: Ticket


async def begin(_call: Call, _parameters: Start) -> Ticket:
    """Start a journey.

    It goes on by itself.
    """
    raise NotImplementedError


async def follow(_call: Call, _parameters: Nothing) -> AsyncGenerator[Journey, None]:
    """Follow the journey."""
    raise NotImplementedError
    yield


METHODS: list[Method[Any, Any]] = [Method("Begin", begin, Start, Ticket), Method("Follow", follow, Nothing, Journey)]

DESCRIPTION = """\
# Journeys.
interface org.example.travel

# How far it is.
#
# In two paragraphs.
type State(ready, not_yet)

# A part of a journey.
type Leg(
  # How far it is.
  distance_km: float
)

# What comes back.
type Ticket(
  state: State,
  paid: bool,
  route: []int,
  anything: object
)

# Start a journey.
#
# It goes on by itself.
method Begin(
  # what to call it
  name: string,
  days: ?int,
  kind: ?(long, short),
  luggage: ?[string]object
) -> (
  state: State,
  paid: bool,
  route: []int,
  anything: object
)

# Follow the journey.
# [Requires 'more' flag]
method Follow() -> (
  # one after another
  # in order
  legs: []Leg,
  detours: ?[string]Leg
)

# The journey is late.
error Delayed(
  # Minutes.
  by: int,
  reasons: []string,
  ticket: Ticket
)

# The service failed; the reason is in its log.
error InternalError()
"""


def test_a_description_says_all_that_the_models_say() -> None:
    assert render("org.example.travel", METHODS, [Delayed], "Journeys.") == DESCRIPTION


def test_a_description_is_rendered_once_and_only_when_it_is_asked_for() -> None:
    rendered: list[str] = []

    def describe() -> str:
        rendered.append(DESCRIPTION)
        return DESCRIPTION

    interface = Interface("org.example.travel", METHODS, describe)
    assert rendered == []
    assert [interface.description, interface.description] == [DESCRIPTION, DESCRIPTION]
    assert rendered == [DESCRIPTION]


def tree(parsed: Any) -> Any:
    """Turn what the library `varlink` read into plain values."""
    marks = {scanner._Maybe: "?", scanner._Array: "[]", scanner._Dict: "[string]"}
    match parsed:
        case scanner._Maybe() | scanner._Array() | scanner._Dict():
            return (marks[type(parsed)], tree(parsed.element_type))
        case scanner._Struct():
            return {name: tree(field) for name, field in parsed.fields.items()}
        case scanner._Enum():
            return tuple(parsed.fields)
        case scanner._CustomType():
            return parsed.name
    return object if isinstance(parsed, scanner._Object) else type(parsed)


def test_the_library_varlink_reads_it() -> None:
    read = scanner.Interface(DESCRIPTION)
    ticket = {"state": "State", "paid": bool, "route": ("[]", int), "anything": object}
    assert read.name == "org.example.travel"
    assert tree(read.members["State"].type) == ("ready", "not_yet")
    assert tree(read.members["Ticket"].type) == ticket
    assert tree(read.members["Begin"].out_type) == ticket
    assert tree(read.members["Begin"].in_type) == {
        "name": str,
        "days": ("?", int),
        "kind": ("?", ("long", "short")),
        "luggage": ("?", ("[string]", object)),
    }
    assert tree(read.members["Follow"].in_type) == {}
    assert tree(read.members["Follow"].out_type) == {"legs": ("[]", "Leg"), "detours": ("?", ("[string]", "Leg"))}
    assert tree(read.members["Delayed"].type) == {"by": int, "reasons": ("[]", str), "ticket": "Ticket"}


def members(description: str) -> set[str]:
    """Take a description apart into its members, without comments and spacing."""
    bare = re.sub(r"\s+", "", re.sub(r"#.*", "", description))
    return set(re.split(r"(?=type[A-Z]|method[A-Z]|error[A-Z]|interface[a-z])", bare)) - {""}


def foreign() -> type[asyncvarlink.VarlinkInterface]:
    """The same interface in the words of the library asyncvarlink."""

    class State(Enum):
        ready = 1
        not_yet = 2

    @dataclass
    class Leg:
        distance_km: float

    class TicketDict(TypedDict):
        state: State
        paid: bool
        route: list[int]
        anything: Any

    class JourneyDict(TypedDict):
        legs: list[Leg]
        detours: dict[str, Leg] | None

    @dataclass
    class Ticket:
        state: State
        paid: bool
        route: list[int]
        anything: Any

    class Delayed(asyncvarlink.TypedVarlinkErrorReply, interface="org.example.travel"):
        class Parameters:
            by: int
            reasons: list[str]
            ticket: Ticket

    class InternalError(asyncvarlink.TypedVarlinkErrorReply, interface="org.example.travel"):
        class Parameters:
            pass

    class Travel(asyncvarlink.VarlinkInterface, name="org.example.travel"):
        errors = (Delayed, InternalError)

        @asyncvarlink.varlinkmethod(allow_foreign=True)
        async def Begin(
            self,
            *,
            name: str,
            days: int | None = None,
            kind: Literal["long", "short"] | None = None,
            luggage: dict[str, Any] | None = None,
        ) -> TicketDict:
            raise NotImplementedError

        @asyncvarlink.varlinkmethod
        async def Follow(self) -> AsyncGenerator[JourneyDict, None]:
            raise NotImplementedError
            yield

    return Travel


def test_the_library_asyncvarlink_writes_the_same() -> None:
    """It reads no descriptions, but writes them from annotations of its own."""
    assert members(DESCRIPTION) == members(foreign().render_interface_description())


def following(reply: Any, name: str = "Follow") -> Method[Any, Any]:
    """A method that replies with a model."""
    return Method(name, follow, Nothing, reply)


NAMES = st.from_regex(r"[a-z](_?[a-z0-9]){0,8}", fullmatch=True)
PLAIN = st.sampled_from([(int, int), (str, str), (bool, bool), (float, float), (Any, object), (Leg, "Leg")])
ENUMS = st.lists(NAMES, min_size=2, max_size=4, unique=True).map(lambda names: (Literal[*names], tuple(names)))
TYPES = st.recursive(
    PLAIN | ENUMS,
    lambda inner: st.one_of(
        inner.map(lambda pair: (GenericAlias(list, pair[0]), ("[]", pair[1]))),
        inner.map(lambda pair: (GenericAlias(dict, (str, pair[0])), ("[string]", pair[1]))),
    ),
    max_leaves=4,
)


@given(st.dictionaries(NAMES, st.tuples(TYPES, st.booleans()), max_size=5))
def test_every_model_is_read_as_it_was_written(fields: dict[str, tuple[tuple[Any, Any], bool]]) -> None:
    declared: dict[str, Any] = {n: (kind | None if maybe else kind, ...) for n, ((kind, _), maybe) in fields.items()}
    model = create_model("Model", __base__=BaseModel, **declared)
    read = scanner.Interface(render("org.example.travel", [following(model)]))
    wanted = {name: ("?", parsed) if maybe else parsed for name, ((_, parsed), maybe) in fields.items()}
    assert tree(read.members["Follow"].out_type) == wanted


def test_the_standard_interface_is_the_standard_one() -> None:
    info = Info(vendor="", product="", version="", url="", interfaces=[])
    ours = members(service_interface(info, {}).description) - {"errorInternalError()"}
    theirs = members(asyncvarlink.serviceinterface.VarlinkServiceInterface.render_interface_description())
    assert ours == theirs - {"errorPermissionDenied()"}


@pytest.mark.parametrize("kind", [bytes, tuple[int, str], dict[int, str], int | str, set[int], complex, None])
def test_a_type_that_varlink_lacks_is_refused(kind: Any) -> None:
    model = create_model("Model", field=(kind, ...))
    with pytest.raises(TypeError, match="Varlink has no type like"):
        render("org.example.travel", [following(model)])


@pytest.mark.parametrize(
    ("interface", "method", "field"),
    [
        ("travel", "Follow", "a"),
        ("org.example.-travel", "Follow", "a"),
        ("org.example.travel", "follow", "a"),
        ("org.example.travel", "Follow_on", "a"),
        ("org.example.travel", "Follow", "a__b"),
        ("org.example.travel", "Follow", "a_"),
        ("org.example.travel", "Follow", "é"),
    ],
)
def test_a_name_that_varlink_forbids_is_refused(interface: str, method: str, field: str) -> None:
    declared: dict[str, Any] = {field: (int, ...)}
    with pytest.raises(ValueError, match="Varlink does not allow the name"):
        render(interface, [following(create_model("Model", **declared), method)])


def test_an_enumeration_value_that_varlink_forbids_is_refused() -> None:
    declared: dict[str, Any] = {"field": (Literal["a-b", "c"], ...)}
    model = create_model("Model", **declared)
    with pytest.raises(ValueError, match="'a-b'"):
        render("org.example.travel", [following(model)])


@pytest.mark.parametrize("field", [(int, 3), (int | None, 3), (int | None, ...)])
def test_a_parameter_may_be_omitted_if_and_only_if_it_may_be_none(field: Any) -> None:
    declared: dict[str, Any] = {"field": field}
    model = create_model("Model", __base__=Parameters, **declared)
    with pytest.raises(TypeError, match="Follow: field may be None if and only if it may be omitted"):
        render("org.example.travel", [Method("Follow", follow, model, Journey)])


def test_two_members_of_one_name_are_refused() -> None:
    class Leg(BaseModel):
        """Another one."""

    model = create_model("Model", one=(Journey, ...), two=(Leg, ...))
    with pytest.raises(ValueError, match="two members are named Leg"):
        render("org.example.travel", [following(model)])
    with pytest.raises(ValueError, match="two members are named Follow"):
        render("org.example.travel", [METHODS[1], METHODS[1]])
