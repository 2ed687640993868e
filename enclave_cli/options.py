"""What `run-enclave` is asked for: the options of its command line, and those of a --config file."""

import os

from enclave_cli import failure
from enclave_cli.failure import Failure
from enclave_cli.settings import ACCELERATORS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LEAST_MEMORY_MIB = 64
MEMORY_PER_IMAGE = 4
"""An image needs room for itself, for itself unpacked, and to work."""

MOST_CPUS = 4096
LONGEST_NAME = 64
NAME_MARKS = "._:@-"

KINDS: "dict[str, tuple[type, str]]" = {
    "enclave_name": (str, "text"),
    "cpu_count": (int, "a number"),
    "cpu_ids": (list, "a list of numbers"),
    "memory_mib": (int, "a number"),
    "eif_path": (str, "text"),
    "enclave_cid": (int, "a number"),
    "debug_mode": (bool, "true or false"),
    "attach_console": (bool, "true or false"),
}
"""The keys of a --config file: what each must be."""


NUMBERS = {
    "cpu_count": ("--cpu-count", "a number, such as 2"),
    "memory_mib": ("--memory", "a number of MiB, such as 192"),
    "enclave_cid": ("--enclave-cid", "a number, or none"),
}
"""The options that are numbers, by their keys: what each must be."""

MIB_OF = {"m": 1, "g": 1 << 10, "t": 1 << 20}
LONGEST_NUMBER = 18


class Request:
    """A checked wish: what to run, on what, and how."""

    def __init__(self, given: "dict[str, Any]") -> None:
        """Check the options that are given, by their keys in a --config file. Raises Failure."""
        missing = [
            option
            for keys, option in (
                (("eif_path",), "--eif-path"),
                (("memory_mib",), "--memory"),
                (("cpu_count", "cpu_ids"), "--cpu-count or --cpu-ids"),
            )
            if all(given.get(key) in (None, "") for key in keys)
        ]
        if missing:
            raise wrong(f"missing: {', '.join(missing)}")
        self.eif_path = str(given["eif_path"])
        self.memory_mib = int(given["memory_mib"])
        self.cpu_count: int | None = given.get("cpu_count")
        self.cpus: list[int] | None = given.get("cpu_ids")
        self.name = str(given.get("enclave_name", default_name(self.eif_path)))
        self.cid = int(given.get("enclave_cid") or 0)
        self.attach = bool(given.get("attach_console"))
        self.debug = bool(given.get("debug_mode")) or self.attach
        self.accel: str | None = given.get("accel")
        self._check()

    def _check(self) -> None:
        from enclave_cli import vsock

        if self.cpu_count is not None and self.cpus is not None:
            raise wrong("got both of --cpu-count and --cpu-ids, wanted one")
        if self.cpu_count is not None and self.cpu_count < 1:
            raise wrong(f"--cpu-count: got {self.cpu_count}, wanted 1 or more")
        if self.cpus is not None and (not self.cpus or len(set(self.cpus)) != len(self.cpus) or min(self.cpus) < 0):
            raise wrong(f"--cpu-ids: got {self.cpus}, wanted numbers of CPUs, each once")
        if not is_name(self.name):
            wanted = f"1 to {LONGEST_NAME} of A-Z a-z 0-9 {NAME_MARKS}, the first a letter or a digit"
            got = self.name if len(self.name) <= LONGEST_NAME else f"{self.name[:LONGEST_NAME]}…"
            raise wrong(f"--enclave-name: got {got!r}, wanted {wanted}")
        if self.memory_mib < LEAST_MEMORY_MIB:
            raise wrong(f"--memory: got {self.memory_mib} MiB, wanted {LEAST_MEMORY_MIB} MiB or more")
        if self.cid and not vsock.FIRST_CID <= self.cid <= vsock.LAST_CID:
            wanted = f"{vsock.FIRST_CID} to {vsock.LAST_CID}, or 0 to choose a free one"
            raise wrong(f"--enclave-cid: got {self.cid}, wanted {wanted}")
        if self.accel is not None and self.accel not in ACCELERATORS:
            raise wrong(f"--accel: got {self.accel!r}, wanted {', '.join(ACCELERATORS)}")

    @property
    def most_image_bytes(self) -> int:
        """How large the image may be for this memory."""
        return (self.memory_mib << 20) // MEMORY_PER_IMAGE

    def accelerator(self, default: str) -> str:
        """Return what to run the code on: what was asked for, or else the machine's setting."""
        return self.accel or default


def is_name(text: str) -> bool:
    """Tell whether the allocator takes this as a name."""
    letters = all(letter.isascii() and (letter.isalnum() or letter in NAME_MARKS) for letter in text)
    return letters and 1 <= len(text) <= LONGEST_NAME and text[0].isalnum()


def default_name(path: str) -> str:
    """Return the name of an image file, as far as it can be the name of an enclave."""
    stem = os.path.splitext(os.path.basename(path))[0]
    name = "".join(letter if is_name(f"x{letter}") else "-" for letter in stem).lstrip(NAME_MARKS)
    return name[:LONGEST_NAME] or "enclave"


def wrong(why: str) -> Failure:
    """Return the failure of a command line."""
    return Failure(
        failure.USAGE, f"run-enclave: {why}; nothing was taken from the pool (see enclave-cli run-enclave --help)"
    )


def read_line(arguments: "dict[str, Any]") -> "dict[str, Any]":
    """Return the options that a command line has, each as it is in a --config file. Raises Failure."""
    given = {key: value for key, value in arguments.items() if value is not None}
    for key in NUMBERS:
        if key in given:
            given[key] = _number(key, given[key])
    if "cpu_ids" in given:
        words = given["cpu_ids"]
        try:
            given["cpu_ids"] = cpu_ids(words)
        except ValueError:
            raise wrong(f"--cpu-ids: got {' '.join(words)}, wanted numbers of CPUs, such as 2 3, or 2-3") from None
    return given


def _number(key: str, text: str) -> int:
    if text.isascii() and text.removeprefix("-").isdigit() and len(text) <= LONGEST_NUMBER:
        return int(text)
    option, wanted = NUMBERS[key]
    if key == "memory_mib" and (mib := _in_mib(text)):
        wanted = f"it in MiB: {mib}"
    got = text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}…"
    raise wrong(f"{option}: got {got!r}, wanted {wanted}")


def _in_mib(text: str) -> int:
    """Return how many MiB a size with a unit is, such as 192M or 1GiB; 0 if it is none."""
    size = text.lower().removesuffix("b").removesuffix("i")
    number, unit = size[:-1], size[-1:]
    if not (number.isascii() and number.isdigit() and len(number) <= LONGEST_NUMBER and unit in MIB_OF):
        return 0
    return int(number) * MIB_OF[unit]


def read_config(path: str) -> "dict[str, Any]":
    """Read a --config file: a JSON object with some of the keys of KINDS. Raises Failure."""
    import json

    try:
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise Failure(failure.FILE_REFUSED, f"cannot read {path}: {why}; nothing was taken from the pool") from None
    if not isinstance(config, dict):
        raise _refused(path, ["file: got something else, wanted a JSON object"])
    mistakes = [
        f"{key}: got {json.dumps(value)}, wanted {KINDS[key][1]}"
        for key, value in config.items()
        if key in KINDS and not _is_of(KINDS[key][0], value)
    ]
    if unknown := [key for key in config if key not in KINDS]:
        got = "an unknown key" if len(unknown) == 1 else "unknown keys"
        mistakes.append(f"{', '.join(unknown)}: got {got}, wanted one of {', '.join(KINDS)}{_meant(unknown)}")
    if mistakes:
        raise _refused(path, mistakes)
    return dict(config)


def _meant(unknown: list[str]) -> str:
    """Guess which keys were meant; empty if none is near."""
    import difflib

    near = [match for key in unknown for match in difflib.get_close_matches(key.lower().replace("-", "_"), KINDS, n=1)]
    return f" (did you mean {', '.join(near)}?)" if near else ""


def _is_of(kind: type, value: object) -> bool:
    """Tell whether a value of a --config file is of a kind; the only lists are of numbers."""
    return type(value) is kind and (not isinstance(value, list) or all(type(item) is int for item in value))


def _refused(path: str, mistakes: list[str]) -> Failure:
    return Failure(failure.FILE_REFUSED, f"{path}: {'; '.join(mistakes)}; nothing was taken from the pool")


def cpu_ids(words: list[str]) -> list[int]:
    """Read numbers of CPUs: `2 3`, `2,3` or `2-3`. Raises ValueError."""
    cpus: list[int] = []
    for word in ",".join(words).split(","):
        first, dash, last = word.partition("-")
        span = range(int(first), int(last if dash else first) + 1)
        if span.stop <= span.start or len(cpus) + span.stop - span.start > MOST_CPUS:
            raise ValueError("it runs backwards, or has more CPUs than any machine")
        cpus += span
    return cpus
