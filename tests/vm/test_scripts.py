"""Runs every script of the ring in the machines it is for; each is told in its own words, in `scripts/`."""

from dataclasses import dataclass

import pytest
from conftest import Ring
from machine import Machine


@dataclass(frozen=True)
class Part:
    """A part of the ring: a guest of its own, and what runs in it. Parts run beside each other, the longest first."""

    name: str
    machine: Machine
    scripts: tuple[str, ...]


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

RING = (
    Part(
        "pool",
        Machine(),
        (
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
            "hardened.sh",
            "attackers.sh",
            "commands.sh",
            "killed_in_service.sh",
            "refusals.sh",
            *(f"killed.sh {point}" for point in KILLED),
            "fragmented_node.sh",
            "nitro_driver.sh",
            "refusing_cpu.sh",
        ),
    ),
    Part(
        "leases",
        Machine(),
        (
            "lease_offline.sh",
            "lease_online.sh",
            "partition_under_load.sh",
            "leased_cores.sh",
            "cpu_of_others.sh",
            "lease_holders.sh",
            "lease_keepers.sh",
            "enclave_launches.sh",
            "enclave.sh",
            "package.sh deb",
            "package.sh rpm",
            "upgrade.sh deb",
            "upgrade.sh rpm",
        ),
    ),
    Part("cycles", Machine(), ("lease_cycles.sh", "load.sh 30", "refusing_driver.sh")),
    Part(
        "kernel-6.1",
        Machine(kernel="6.1"),
        (
            "documented_file.sh",
            "other_programs.sh 2M",
            "restart_elsewhere.sh",
            "stray_cpu.sh",
            "lease_online.sh",
            "leased_cores.sh",
            "refusing_cpu.sh",
            "refusing_cpu_half_way.sh",
            "surplus_pages.sh",
        ),
    ),
    Part(
        "one-node",
        Machine(nodes=1, cores=4),
        ("documented_file.sh 6-7 0-5 0", "live_changes.sh", "page_drift.sh", "journal.sh"),
    ),
    Part("one-thread", Machine(nodes=1, cores=4, threads=1), ("documented_file.sh 2-3 0-1 0",)),
    Part(
        "cgroup-v1",
        Machine(kernel="6.1", append="systemd.unified_cgroup_hierarchy=0"),
        ("lease_offline.sh", "cgroup_v1.sh"),
    ),
    Part("odd", Machine(nodes=4, cores=1, lopsided=True, append="isolcpus=4-5 nohz_full=4-5"), ("odd_machine.sh",)),
    Part(
        "hotplug",
        Machine(nodes=1, cores=4, threads=1, hotplug=True, append="maxcpus=1"),
        ("unplugged_cpu.sh",),
    ),
    Part("large-pages", Machine(memory_mib=8192), ("large_pages.sh", "walk.sh 12 1")),
    Part("large-pages-of-others", Machine(memory_mib=12288), ("other_programs.sh 1G",)),
)


@pytest.mark.parametrize(
    ("part", "script"),
    [pytest.param(part, script, id=f"{part.name}: {script}") for part in RING for script in part.scripts],
)
def test_script(ring: Ring, part: Part, script: str) -> None:
    ring.guest(part.name, part.machine).run(*script.split())
