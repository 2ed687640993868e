"""Runs every script of the ring in the machines it is for; each is told in its own words, in `scripts/`."""

import pytest
from conftest import Ring
from machine import Machine

KILLED = (
    "before-the-ledger",
    "before-the-pages",
    "before-the-mount",
    "in-the-mount",
    "before-the-hold-file",
    "between-two-cpus",
    "before-the-commit wanted",
    "in-the-undo",
    "in-the-stop-between-two-cpus",
    "in-the-stop-before-the-pages",
    "in-the-stop-before-the-last-word",
)

RING = {
    Machine(): [
        "nothing_by_itself.sh",
        "documented_file.sh",
        "refused_files.sh",
        "too_much.sh",
        "other_programs.sh 2M",
        "surplus_pages.sh",
        "restart_elsewhere.sh",
        "thieves.sh",
        "clients.sh",
        "stray_cpu.sh",
        "killed_in_service.sh",
        *(f"killed.sh {point}" for point in KILLED),
        "fragmented_node.sh",
        "lease_offline.sh",
        "lease_online.sh",
        "lease_cycles.sh",
        "lease_holders.sh",
        "enclave_launches.sh",
        "enclave.sh",
        "package.sh deb",
        "package.sh rpm",
        "upgrade.sh deb",
        "upgrade.sh rpm",
        "refusing_cpu.sh",
    ],
    Machine(kernel="6.1"): [
        "documented_file.sh",
        "other_programs.sh 2M",
        "restart_elsewhere.sh",
        "stray_cpu.sh",
        "lease_online.sh",
        "refusing_cpu.sh",
        "refusing_cpu_half_way.sh",
    ],
    Machine(nodes=1, cores=4): ["documented_file.sh 6-7 0-5 0"],
    Machine(nodes=1, cores=4, threads=1): ["documented_file.sh 2-3 0-1 0"],
    Machine(memory_mib=8192): ["large_pages.sh"],
    Machine(memory_mib=12288): ["other_programs.sh 1G"],
}


@pytest.mark.parametrize(
    ("machine", "script"),
    [
        pytest.param(machine, script, id=f"{machine}: {script}")
        for machine, scripts in RING.items()
        for script in scripts
    ],
)
def test_script(ring: Ring, machine: Machine, script: str) -> None:
    ring.guest(machine).run(*script.split())
