"""The settings of this machine for the launcher: a small file of `key = value` lines."""

import os

from enclave_cli import failure, paths
from enclave_cli.failure import Failure

ACCELERATORS = ("auto", "kvm", "tcg")
QEMU = ("qemu-system-x86_64", "/usr/libexec/qemu-kvm")
"""What QEMU is called where nobody says: by Debian, and by the RHEL family."""

LONGEST_SECONDS = 86400


class Settings:
    """What the file says, or what holds without it; an empty `qemu` means to look for it.

    `start_seconds` is how long QEMU may take until its monitor answers and its virtual CPUs run, `heartbeat_seconds`
    how long an image that sends a heartbeat may take to send it: emulation inside emulation is slow.
    """

    def __init__(self) -> None:
        self.accel = "auto"
        self.qemu = ""
        self.start_seconds = 300
        self.heartbeat_seconds = 600

    def find_qemu(self) -> str:
        """Return the path of QEMU. Raises Failure."""
        for name in [self.qemu] if self.qemu else QEMU:
            places = [""] if "/" in name else os.get_exec_path()
            for place in places:
                path = os.path.join(place, name)
                if os.path.isfile(path) and os.access(path, os.X_OK):
                    return path
        looked = self.qemu or " and ".join(QEMU)
        raise Failure(
            failure.MACHINE_LACKS,
            f"cannot find QEMU: looked for {looked}; nothing was taken from the pool "
            f"(install qemu-system-x86, or set qemu= in {paths.SETTINGS})",
        )


def read(path: str) -> Settings:
    """Read the file at `path`, if there is one. Raises Failure."""
    settings = Settings()
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return settings
    except (OSError, ValueError) as error:
        raise Failure(failure.FILE_REFUSED, f"cannot read {path}: {error}") from None
    mistakes = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if text and text != "[enclave-cli]" and (mistake := _set(settings, text)):
            mistakes.append(f"{path}:{number}: {mistake}")
    if mistakes:
        raise Failure(failure.FILE_REFUSED, f"{'; '.join(mistakes)}; nothing was taken from the pool")
    return settings


def _set(settings: Settings, text: str) -> str:
    """Set what a line says. Return what is wrong with it, or nothing."""
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or key not in vars(settings):
        return f"got {text!r}, wanted {' or '.join(f'{name} = …' for name in vars(settings))}"
    if key == "accel" and value not in ACCELERATORS:
        return f"accel: got {value!r}, wanted {', '.join(ACCELERATORS)}"
    if not key.endswith("_seconds"):
        setattr(settings, key, value)
    elif value.isascii() and value.isdigit() and len(value) < 10 and 1 <= int(value) <= LONGEST_SECONDS:
        setattr(settings, key, int(value))
    else:
        return f"{key}: got {value!r}, wanted 1 to {LONGEST_SECONDS} seconds"
    return ""
