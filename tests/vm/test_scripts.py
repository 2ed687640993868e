"""Runs every script of the ring in the machines it is for; each is told in its own words, in `scripts/`."""

import pytest
from conftest import Booted
from machine import Machine

RING = {
    Machine(): [
        "nothing_by_itself.sh",
        "documented_file.sh",
        "refused_files.sh",
        "too_much.sh",
        "other_programs.sh",
        "surplus_pages.sh",
    ],
}


@pytest.mark.parametrize(
    ("booted", "script"),
    [
        pytest.param(machine, script, id=f"{machine}: {script}")
        for machine, scripts in RING.items()
        for script in scripts
    ],
    indirect=["booted"],
)
def test_script(booted: Booted, script: str) -> None:
    booted.run(*script.split())
