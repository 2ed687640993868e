"""Programs of Debian 13 that Debian 12 has not, or not recent enough: unpacked into `.cache/`, never installed."""

import fcntl
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "foreign"

RELEASE = "trixie"
PROGRAMS = {
    "journalctl": "systemd",
    "prometheus-node-exporter": "prometheus-node-exporter",
    "promtool": "prometheus",
    "varlinkctl": "systemd",
}
"""The package that each program is in."""

LIBRARIES = "usr/lib/x86_64-linux-gnu"


def command(program: str) -> list[str]:
    """Return how to call a program: by the dynamic linker of its own release, with the libraries of that."""
    root = _unpacked()
    libraries = root / LIBRARIES
    linker = libraries / "ld-linux-x86-64.so.2"
    return [str(linker), "--library-path", f"{libraries}:{libraries / 'systemd'}", str(root / "usr/bin" / program)]


def _unpacked() -> Path:
    """Return the directory of the programs, after downloading them if this recipe never was."""
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    root = CACHE / recipe
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            for old in CACHE.glob("*/"):
                shutil.rmtree(old)
            with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
                _keep(_download(Path(scratch)), Path(scratch, "kept")).rename(root)
    return root


def _download(scratch: Path) -> Path:
    """Unpack the packages and all they need; nothing of it is run."""
    whole = scratch / "whole"
    include = f"--include={','.join(sorted({*PROGRAMS.values()}))}"
    subprocess.run(["mmdebstrap", "--quiet", "--variant=extract", include, RELEASE, str(whole)], check=True)
    return whole


def _keep(whole: Path, kept: Path) -> Path:
    """Move the programs and the libraries to a directory of their own."""
    (kept / "usr/bin").mkdir(parents=True)
    (kept / LIBRARIES).parent.mkdir()
    for part in (LIBRARIES, *(f"usr/bin/{program}" for program in PROGRAMS)):
        (whole / part).rename(kept / part)
    return kept
