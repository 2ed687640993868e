"""The door to systemd's manager: units that are started and stopped, and what is told of them.

Everything here raises OSError when systemd refuses, with what it says (EIO), cannot be reached, or does not answer:
TimeoutError, or ConnectionResetError where it executes itself anew; then what was asked for may happen still.
"""

import ctypes
import errno
import os
import string
import subprocess
from collections.abc import Collection, Sequence
from pathlib import Path

from ali_enclaves_allocator.kernel.sdbus import ANSWER_S, Argument, Manager

UNESCAPED = frozenset(string.ascii_letters + string.digits + ":_.")
"""What a path has in its unit's name as it is (String Escaping in systemd.unit(5))."""

Property = tuple[Argument, ...]
"""A property of a unit: its name, its signature, and its value, as sd_bus_message_append(3) takes them."""


def text(name: str, value: str) -> Property:
    """Return a property that is text."""
    return name, "s", value


def numbers(name: str, values: Sequence[int]) -> Property:
    """Return a property that is a list of numbers of 32 bits."""
    return name, "au", len(values), *values


def duration(name: str, usec: int) -> Property:
    """Return a property that is a time in microseconds."""
    return name, "t", ctypes.c_uint64(usec)


def cpu_mask(name: str, cpus: Collection[int]) -> Property:
    """Return a property that is a set of CPUs, the lowest eight in the first byte; an empty one is no restriction.

    A message has room for some 8,000 CPUs: ctypes passes 1,024 arguments, and each byte is one.
    """
    bits = sum(1 << cpu for cpu in cpus)
    mask = bits.to_bytes((bits.bit_length() + 7) // 8, "little")
    return name, "ay", len(mask), *mask


def start(unit: str) -> None:
    """Start a unit, and wait until it has started."""
    with Manager() as manager:
        manager.run_job("StartUnit", "ss", unit, "replace")


def start_transient(unit: str, *properties: Property) -> None:
    """Make a unit that there is no file of, start it, and wait until it has started."""
    with Manager() as manager:
        manager.run_job("StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail", *_array(properties), 0)


def stop(unit: str) -> None:
    """Stop a unit, instead of whatever else was to be done with it, and wait until it has stopped."""
    with Manager() as manager:
        manager.run_job("StopUnit", "ss", unit, "replace")


def set_runtime(unit: str, *properties: Property) -> None:
    """Set properties of a unit until the next boot."""
    with Manager() as manager:
        manager.call("SetUnitProperties", "sba(sv)", unit, True, *_array(properties))


def revert(unit: str) -> None:
    """Drop all that was set of a unit beside its own file."""
    with Manager() as manager:
        manager.call("RevertUnitFiles", "as", 1, unit)
        manager.call("Reload")


def is_active(unit: str) -> bool:
    """Tell whether a unit is anything but inactive, such as on its way there."""
    with Manager() as manager:
        path = manager.call("LoadUnit", "s", unit).text("o")
        return manager.get(path, "Unit", "ActiveState").text("v") != "inactive"


def job_of_own_unit() -> str:
    """Return the type of the job that is under way for the unit that this process runs in; empty without one."""
    with Manager() as manager:
        unit = manager.get("/org/freedesktop/systemd1/unit/self", "Unit", "Job")
        unit.enter("v", "(uo)")
        unit.enter("r", "uo")
        number, path = unit.number(), unit.text("o")
        return manager.get(path, "Job", "JobType").text("v") if number else ""


def mount_unit(where: Path) -> str:
    """Return the name of the unit of a mount (systemd-escape(1), --path)."""
    escaped = "".join(
        "-" if char == "/" else char if char in UNESCAPED else _hex(char) for char in str(where).strip("/")
    )
    return f"{escaped}.mount"


def systemd_run(*command: str) -> None:
    """Let systemd run a command outside this service's sandbox, whose exit status is an error number.

    By its own program, which knows how to wait for a command's end.
    """
    run = ("systemd-run", "--quiet", "--collect", "--wait", "--no-ask-password", "--", *command)
    try:
        done = subprocess.run(run, check=False, capture_output=True, stdin=subprocess.DEVNULL, timeout=ANSWER_S)
    except subprocess.TimeoutExpired as error:
        raise OSError(errno.ETIMEDOUT, f"no answer from systemd in {ANSWER_S:g} s") from error
    if done.returncode:
        raise OSError(done.returncode, os.strerror(done.returncode))


def _array(properties: Sequence[Property]) -> list[Argument]:
    """Return properties as the elements of an array, which begins with their number."""
    return [len(properties), *(part for one in properties for part in one)]


def _hex(char: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in char.encode())
