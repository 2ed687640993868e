"""`enclave-cli describe-enclaves`, answered by a daemon on the simulated kernel, against a bare interpreter start."""

import subprocess

from tests.bench.figures import Result, Target, ratio
from tests.bench.pairs import interleaved
from tests.bench.row import Options
from tests.bench.server import ROOT, serving

PYTHON = "/usr/bin/python3"
"""The system's: that of the tests has an import hook, which would make a bare start slower than it is."""

START = """
import sys
sys.path.insert(0, sys.argv.pop())
from enclave_cli import cli, paths
paths.SOCKET = sys.argv.pop()
sys.exit(cli.main())
"""
"""What the installed command does, but for the paths of the package and of the socket."""

EACH = 3
"""So many starts are one of a pair: a start is short."""


def measure(options: Options) -> Result:
    """Start both in turns, isolated from the user's environment, as the installed command is."""
    with serving("ours") as path:
        pairs = interleaved(
            lambda: _run(START, "describe-enclaves", path, str(ROOT)),
            lambda: _run("pass"),
            3 * options.pairs,
        )
    figure = ratio(
        "`enclave-cli describe-enclaves`", "bare interpreter start", pairs, Target("≤", 3), note=f"{EACH} each"
    )
    return Result([figure], profile=_imports())


def _run(code: str, *arguments: str) -> None:
    for _ in range(EACH):
        done = subprocess.run([PYTHON, "-Ic", code, *arguments], stdout=subprocess.PIPE, check=True)
        assert done.stdout.strip() == (b"[]" if arguments else b"")


def _imports() -> str:
    """Return what the command imports beyond a bare interpreter, by the time each module takes itself."""
    with serving("ours") as path:
        command = [PYTHON, "-X", "importtime", "-Ic", START, "describe-enclaves", path, str(ROOT)]
        told = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True).stderr
    _, _, after = told.partition("| site\n")
    rows = [line.removeprefix("import time:").split("|") for line in after.splitlines()]
    slowest = sorted(((int(own), name.strip()) for own, _, name in rows), reverse=True)
    head = (
        f"{len(rows)} modules beyond a bare interpreter, {sum(own for own, _ in slowest) / 1000:.1f} ms; the slowest:"
    )
    return "\n".join([head, *(f"{own / 1000:6.1f} ms  {name}" for own, name in slowest[:8])])
