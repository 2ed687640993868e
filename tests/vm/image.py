"""The guest image: a Debian 12 disk and the kernels that boot it, built once and kept in `.cache/`."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
CACHE = REPO / ".cache" / "vm"
SETUP = Path(__file__).with_name("image-setup")

PACKAGES = (
    "acl",
    "dbus",
    "kmod",
    "libsystemd0",
    "linux-image-6.12-cloud-amd64",
    "linux-image-cloud-amd64",
    "numactl",
    "procps",
    "psmisc",
    "python3",
    "qemu-system-x86",
    "rpm",
    "strace",
    "systemd-sysv",
    "udev",
)

DISK_SIZE = "3G"
OLD_SECONDS = 24 * 60 * 60


@dataclass(frozen=True)
class Image:
    """A built image: one disk, and one kernel of each series that its modules fit."""

    directory: Path

    @property
    def disk(self) -> Path:
        """The raw disk with an ext4 root file system; shared by all guests, so only what lies over it is written."""
        return self.directory / "disk"

    def overlay(self, directory: Path) -> Path:
        """Make a guest's own disk, which holds what it writes, and return it."""
        disk = directory / "disk"
        command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(self.disk), str(disk)]
        subprocess.run(command, check=True)
        return disk

    def kernel(self, series: str) -> Path:
        """The kernel of a series such as `6.12`."""
        [kernel] = self.directory.glob(f"vmlinuz-{series}.*")
        return kernel


def built_image() -> Image:
    """Return the image, building it first if its recipe has changed or it was never built."""
    recipe = hashlib.sha256(Path(__file__).read_bytes() + SETUP.read_bytes()).hexdigest()[:16]
    image = Image(CACHE / recipe)
    CACHE.mkdir(parents=True, exist_ok=True)
    with _locked(CACHE / "lock"):
        if not image.directory.exists():
            print("vm: building the guest image (about a minute, once)", file=sys.stderr)
            _forget_old()
            _build(image.directory)
    return image


def _forget_old() -> None:
    """Remove what earlier recipes left; a recent image may be another branch's."""
    for directory in CACHE.glob("*/"):
        if time.time() - directory.stat().st_mtime > OLD_SECONDS:
            shutil.rmtree(directory)


def _build(target: Path) -> None:
    """Build everything in a scratch directory, and put the result in place only when it is whole."""
    # No initrd: the cloud kernels have NVMe and ext4 built in.
    environment = os.environ | {"INITRD": "No"}
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        result = Path(scratch, "image")
        result.mkdir()
        for command in (_debian(), _disk(result)):
            subprocess.run(command, cwd=scratch, env=environment, stdout=sys.stderr, check=True)
        result.rename(target)


def _debian() -> list[str]:
    return [
        "mmdebstrap",
        "--variant=minbase",
        f"--include={','.join(PACKAGES)}",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        f"--customize-hook={SETUP}",
        "bookworm",
        "root.tar",
    ]


def _disk(result: Path) -> list[str]:
    """Unpack and pack again under fakeroot, so that owners are right whoever builds."""
    script = f"""
        mkdir root
        tar --directory root --extract --file root.tar
        cp --dereference root/boot/vmlinuz-* {result}
        mke2fs -q -t ext4 -O ^has_journal -m 0 -E root_owner=0:0 -d root {result}/disk {DISK_SIZE}
    """
    return ["fakeroot", "sh", "-euc", script]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
