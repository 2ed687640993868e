"""The units: systemd finds nothing wrong with them, they are hardened, and the manual tells of each thing left open."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.test_docs_pages import SERVICE, items, section

ROOT = Path(__file__).parent.parent
ALLOCATOR = ROOT / "systemd/ali-enclaves-allocator.service"
GIVE_BACK = ROOT / "systemd/ali-enclaves-give-back@.service"
SLICE = ROOT / "systemd/enclaves.slice"
MOUNT = ROOT / r"systemd/run-ali\x2denclaves-evm.mount"

MOST_EXPOSED = 2.5
"""Of 10, as systemd 252 counts."""

OWN_DIRECTORY = "ReadWritePaths=/run/ali-enclaves"
"""What the service itself has as RuntimeDirectory=, and the unit that follows it must not remove."""


def analyzed(verb: str, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Have systemd-analyze look at files."""
    return subprocess.run(["systemd-analyze", verb, *arguments], capture_output=True, text=True, check=False)


def hardening(unit: Path) -> list[str]:
    """Return the lines of a unit that confine it: those of [Service] after the comment on them."""
    _, _, service = unit.read_text().partition("\n[Service]\n")
    return re.findall(r"(?m)^\w+=.*$", service.partition("\n# ")[2].partition("\n[")[0])


@pytest.mark.parametrize("unit", [ALLOCATOR, GIVE_BACK], ids=lambda unit: unit.name)
def test_it_is_hardened(unit: Path) -> None:
    most = f"--threshold={MOST_EXPOSED * 10:.0f}"
    done = analyzed("security", "--offline=yes", "--no-pager", most, unit)
    assert not done.returncode, done.stdout + done.stderr


def test_what_is_left_open_is_told_with_its_reason() -> None:
    done = analyzed("security", "--offline=yes", "--json=short", ALLOCATOR)
    names = [check["name"] for check in json.loads(done.stdout) if check["exposure"]]
    [kept] = re.findall(r"(?m)^CapabilityBoundingSet=(.*)$", ALLOCATOR.read_text())
    left = {name.partition("=")[0] + "=" for name in names} - {"CapabilityBoundingSet="} | set(kept.split())
    assert set(items(section(SERVICE, "SECURITY"))) == left
    [told] = re.findall(r"counts ([\d.]+) of 10", section(SERVICE, "SECURITY"))
    assert told in analyzed("security", "--offline=yes", "--no-pager", ALLOCATOR).stdout.splitlines()[-1]


def test_both_units_are_hardened_alike() -> None:
    assert len(hardening(ALLOCATOR)) > 20
    assert hardening(ALLOCATOR) == [line for line in hardening(GIVE_BACK) if line != OWN_DIRECTORY]
    assert OWN_DIRECTORY in hardening(GIVE_BACK)


def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    units = tmp_path / "usr/lib/systemd/system"
    shutil.copytree("/lib/systemd/system", units, symlinks=True)
    for unit in (ALLOCATOR, GIVE_BACK, SLICE, MOUNT):
        shutil.copy(unit, units)
    for program in ("usr/bin/ali-enclaves-allocator", "bin/true"):
        (tmp_path / program).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy("/bin/true", tmp_path / program)
    names = [ALLOCATOR.name, GIVE_BACK.name.replace("@", "@0"), SLICE.name, MOUNT.name]
    done = analyzed("verify", "--man=no", f"--root={tmp_path}", *names)
    assert [line for line in done.stderr.splitlines() if "Unit evm-0.scope not found" not in line] == []
