"""What the user asks for: allocator.yaml, its keys, their ranges, and every problem of a file at once.

What suits the machine (whole cores, enough memory) is decided by the plan; it reports through the same
`Source.problem`, so that a user always sees the line to correct.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails, PydanticKnownError

from ali_enclaves_allocator.model import cpus, yamltext
from ali_enclaves_allocator.model.errors import EX_CONFIG, AllocatorError
from ali_enclaves_allocator.model.source import ConfigProblem, Source

MAX_MEMORY_MIB = 1 << 32
"""4 PiB: all that the 52 physical address bits of today's machines can name."""

MIN_HOST_MEMORY_MIB = 64
"""Less does not carry a running host, and 0 would read as "no limit": the guard cannot be switched off."""

MAX_PROBLEMS = 20
"""So many problems of one file are told; a file of another kind must not flood the journal."""


def _parse_flag(value: object) -> object:
    """Read a flag; `yes`, `on` and the like are refused, because YAML 1.1 and 1.2 differ about them."""
    if not isinstance(value, str) or value not in (value.lower(), value.title(), value.upper()):
        return value
    return {"true": True, "false": False}.get(value.lower(), value)


def _parse_cpus(value: object) -> object:
    """Read a CPU list; one CPU alone comes from YAML as a number."""
    return cpus.parse(str(value)) if isinstance(value, str | int) else value


CpuList = Annotated[
    tuple[int, ...],
    BeforeValidator(_parse_cpus),
    PlainSerializer(cpus.format, when_used="json"),
    Field(min_length=1),
]
"""CPU numbers, ascending; written as a CPU list: `2-3,6-7`."""

Flag = Annotated[bool, BeforeValidator(_parse_flag)]
"""The word `true` or `false`."""


class Config(BaseModel, frozen=True, extra="forbid", strict=True):
    """The content of allocator.yaml. A field's title completes the sentence "must be …"."""

    memory_mib: int = Field(
        ge=1,
        le=MAX_MEMORY_MIB,
        title="a whole number of MiB",
        description="Memory of the pool in MiB, rounded up to whole hugepages.",
    )
    cpu_pool: CpuList | None = Field(
        default=None,
        title="a CPU list such as 2-3,6-7",
        description="The CPUs of the pool by number, whole cores only. Excludes cpu_count.",
    )
    cpu_count: int | None = Field(
        default=None,
        ge=1,
        le=cpus.MAX_CPUS,
        validate_default=True,
        title="a whole number of CPUs",
        description="How many CPUs the pool has, whole cores only. Excludes cpu_pool.",
    )
    hugepage_size: Literal["2M", "1G"] = Field(
        default="2M",
        title="2M or 1G",
        description="Size of the pool's hugepages, one for the whole pool.",
    )
    max_enclaves: int = Field(
        default=1,
        ge=1,
        le=cpus.MAX_CPUS,
        title="a whole number of enclaves",
        description="How many enclaves may hold a part of the pool at once. With 1 the pool is on one node.",
    )
    host_memory_mib: int = Field(
        default=512,
        ge=MIN_HOST_MEMORY_MIB,
        le=MAX_MEMORY_MIB,
        title="a whole number of MiB",
        description="Memory in MiB that must stay available to the host when the pool is reserved.",
    )
    cpu_driver: Literal["sysfs", "nitro_enclaves"] = Field(
        default="sysfs",
        title="sysfs or nitro_enclaves",
        description="What takes the pool's CPUs offline: this service, or the driver of that name for itself.",
    )
    offline: Literal["always", "leased"] = Field(
        default="always",
        title="always or leased",
        description="When the pool's CPUs are offline: always, or only while a lease has them.",
    )
    hold_memory: Flag = Field(
        default=None,
        validate_default=True,
        title="true or false",
        description="Whether the pool's pages are held, or left free for a launcher that takes them itself.",
    )

    @field_validator("cpu_count", mode="before")
    @classmethod
    def _one_of_count_and_pool(cls, value: object, info: ValidationInfo) -> object:
        pool_given = info.data.get("cpu_pool", ...) is not None  # absent: given, but refused
        if value is None and not pool_given:
            raise PydanticKnownError("missing")
        if value is not None and pool_given:
            raise ValueError("excludes cpu_pool; keep one of the two")
        return value

    @field_validator("offline")
    @classmethod
    def _as_the_driver_can(cls, value: str, info: ValidationInfo) -> str:
        if value == "leased" and info.data.get("cpu_driver") == "nitro_enclaves":
            raise ValueError("got leased, wanted always: the CPUs of cpu_driver nitro_enclaves are always offline")
        return value

    @field_validator("hold_memory", mode="before")
    @classmethod
    def _as_the_launcher_needs(cls, value: object, info: ValidationInfo) -> object:
        """The driver's launcher maps free hugepages by itself; held ones would be of use to nobody."""
        driver = info.data.get("cpu_driver") == "nitro_enclaves"
        if driver and _parse_flag(value) is True:
            raise ValueError("got true, wanted false: with cpu_driver nitro_enclaves its launcher takes free pages")
        if info.data.get("offline") == "leased" and _parse_flag(value) is False:
            raise ValueError("got false, wanted true: with offline leased there must be leases")
        return not driver if value is None else value


@dataclass
class ConfigInvalid(AllocatorError):
    """The file is refused, for all these reasons, in the order of the file; what it lacks comes last.

    A key is often missing because it is misspelled, which the first line should say.
    """

    exit_code: ClassVar[int] = EX_CONFIG
    problems: list[ConfigProblem]
    omitted: int = 0
    """How many more problems there are than told."""

    def what(self) -> str:
        """Tell every problem with its line and a caret."""
        more = [f"{self.problems[0].path}: and {self.omitted} more problems"] if self.omitted else []
        return "\n".join([*map(str, self.problems), *more])

    def __str__(self) -> str:
        return f"{self.what()}\n{self.outcome}"


def load(data: bytes, path: str) -> tuple[Config, Source]:
    """Return the configuration in these bytes, and its source to tell later problems at their place.

    The path is only named in messages.

    Raises:
        ConfigInvalid: the file is refused; carries every problem of it.
    """
    source, problems = yamltext.read(data, path)
    try:
        config = Config.model_validate({key: entry.value for key, entry in source.entries.items()})
    except ValidationError as error:
        problems += [_problem(detail, source) for detail in error.errors() if _is_sure(detail, source)]
    if problems:
        problems.sort(key=lambda problem: (not problem.source_line, problem.line, problem.column))
        raise ConfigInvalid(problems[:MAX_PROBLEMS], max(0, len(problems) - MAX_PROBLEMS))
    return config, source


def _is_sure(detail: ErrorDetails, source: Source) -> bool:
    """Whether the error stands: a key can be missing only from a file that was read to its end."""
    return source.complete or detail["type"] != "missing"


def _problem(detail: ErrorDetails, source: Source) -> ConfigProblem:
    """Tell an error of pydantic's in our voice, at its place."""
    key = str(detail["loc"][0])
    if detail["type"] == "extra_forbidden":
        return source.problem_at(source.entries[key].key_at, key, _unknown(key))
    return source.problem(key, _refused(key, detail, source))


def _refused(key: str, detail: ErrorDetails, source: Source) -> str:
    """Say what a known key wanted and got."""
    wanted = Config.model_fields[key].title
    context = detail.get("ctx", {})
    match detail["type"]:
        case "missing" if key == "cpu_count":
            return "missing, and cpu_pool too; wanted one of the two"
        case "missing":
            return f"missing; wanted {wanted}"
        case "value_error":
            return str(context["error"])
        case "greater_than_equal":
            wanted = f"{wanted}, at least {context['ge']}"
        case "less_than_equal":
            wanted = f"{wanted}, at most {context['le']}"
        case "literal_error":
            guess = _meant(str(source.entries[key].value), get_args(Config.model_fields[key].annotation))
            return f"must be {wanted}, got {source.entries[key].got}{guess}"
    return f"must be {wanted}, got {source.entries[key].got}"


def _unknown(key: str) -> str:
    """Guess which key was meant."""
    known = list(Config.model_fields)
    if key == "<<":
        return "merge keys are not taken; write each key out"
    return "unknown key" + (_meant(key, known) or f"; known are {', '.join(known)}")


def _meant(word: str, known: Iterable[str]) -> str:
    """Guess which known word was meant, however its letters were written; empty if none is near."""
    spelled = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower().replace("-", "_"), spelled, n=1)
    return f"; did you mean {spelled[near[0]]}?" if near else ""
