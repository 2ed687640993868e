"""The files that the operator of a walk writes: valid ones that the machine can or cannot have, and mistakes."""

import random
from pathlib import Path

from walk_service import parsed

YAML = Path("/etc/ali-enclaves/allocator.yaml")

DEFAULTS = {
    "cpu_count": None,
    "cpu_pool": None,
    "hugepage_size": "2M",
    "max_enclaves": 1,
    "host_memory_mib": 512,
    "cpu_driver": "sysfs",
    "offline": "always",
    "hold_memory": True,
}

MISTAKES = (
    {"cpu_count": "two"},
    {"cpu_count": 2, "memory_mb": 64},
    {"cpu_count": 2, "memory_mib": "lots"},
    {"cpu_count": 2, "memory_mib": 1 << 24},
    {"cpu_count": 2, "hugepage_size": "4M"},
    {"cpu_count": 2, "offline": "leased", "hold_memory": "false"},
    {"cpu_count": 2, "max_enclaves": "\t- ["},
    {"cpu_count": 2, "cpu_pool": "2-3"},
    {"cpu_pool": "0-1"},
    {"cpu_count": 4096},
    {},
)
"""What is refused on every machine."""


class File:
    """A content of allocator.yaml."""

    def __init__(self, keys: dict, valid: bool = True, sure: bool = True) -> None:
        """Know what must become of it: a valid one may be refused, but one that is sure only for what others did."""
        self.keys, self.valid, self.sure = {"memory_mib": 32} | keys, valid, valid and sure

    def __str__(self) -> str:
        text = ", ".join(f"{key}: {value}" for key, value in self.keys.items())
        return f"{text}{'' if self.valid else ' (a mistake)'}"

    def write(self) -> None:
        """Put it in its place."""
        YAML.write_text("".join(f"{key}: {value}\n" for key, value in self.keys.items()))

    def config(self) -> dict:
        """Return what GetPool must tell of it while it is in force."""
        told = DEFAULTS | self.keys
        if named := told["cpu_pool"]:
            told["cpu_pool"] = sorted(parsed(named))
        return told


def any_file(dice: random.Random, cores: dict[int, list[frozenset[int]]]) -> File:
    """Return some file for a machine whose nodes have these cores to give."""
    if dice.random() < 0.15:
        return File(dice.choice(MISTAKES), valid=False)
    keys = {"memory_mib": dice.choice((10, 16, 48, 64, 101, 128, 256)), "max_enclaves": dice.choice((1, 3, 4, 4))}
    if keys["max_enclaves"] == 1:
        cores = dict([dice.choice(sorted(cores.items()))])
    every = [core for node in sorted(cores) for core in cores[node]]
    chosen = dice.sample(every, min(dice.randint(1, 4), len(every)))
    if dice.random() < 0.5:
        keys["cpu_count"] = sum(map(len, chosen))
    else:
        keys["cpu_pool"] = ",".join(str(cpu) for core in chosen for cpu in sorted(core))
    if dice.random() < 0.4:
        keys["offline"] = "leased"
    if large := dice.random() < 0.04:
        keys |= {"hugepage_size": "1G", "memory_mib": 1024}
    return File(keys, sure=not large)
