"""The host's side of what is measured in a guest: boots one, and reads the lines of times that it prints."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent / "guest"
ROOT = Path(__file__).parents[2]
BARE = ROOT / "build" / "bench" / "bare"
LIMIT_S = 7200

Times = dict[str, float]


@dataclass(frozen=True)
class Shape:
    """The machine that a guest is: 6.12, two nodes, two threads a core."""

    cores: int = 2
    memory_mib: int = 4096

    @property
    def cpus(self) -> int:
        """How many CPUs it has."""
        return 4 * self.cores

    def options(self) -> list[str]:
        """Return what `tests/vm/run` takes for it."""
        return ["--kernel", "6.12", "--cores", str(self.cores), "--memory", str(self.memory_mib)]


def measure(
    work: str,
    pairs: int,
    *,
    shape: Shape | None = None,
    script: str = "measure.py",
    files: Sequence[Path] = (),
    **keys: int,
) -> list[Times]:
    """Measure a work in a guest of its own. Return the times of each pair.

    Raises:
        CalledProcessError: the guest did not come up, or the work failed there; it said why.
    """
    BARE.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["gcc", "-O2", "-Wall", "-static", "-o", BARE, HERE / "bare.c"], check=True)
    beside = [option for file in (BARE, *files) for option in ("--file", str(file))]
    machine = (shape or Shape()).options()
    words = [work, str(pairs), *(f"{key}={value}" for key, value in keys.items())]
    command = ["tests/vm/run", "--timeout", str(LIMIT_S), *machine, *beside, str(HERE / script), *words]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
