"""From `run-enclave` to the enclave's first byte over vsock, against the same QEMU by hand on CPUs that are free."""

import subprocess
from statistics import median

from tests.bench.figures import Figure, Pair, Result, Target, ratio, seconds
from tests.bench.in_guest import ROOT, Times
from tests.bench.in_guest import measure as in_guest
from tests.bench.row import Options

IMAGE = ROOT / "build" / "hello-small.eif"


def measure(options: Options) -> Result:
    """Boot both in turns: the sample enclave, whose first byte is its heartbeat."""
    subprocess.run([ROOT / "examples/hello/build", "--small", IMAGE], cwd=ROOT, check=True)
    times = in_guest("first_byte", options.pairs, script="first_byte.py", files=[IMAGE])
    work = "run-enclave to the first byte over vsock"
    whole = _figure(work, "whole", times, Target("≤", 1.1))
    part = _figure("the same from a pool of five times its memory", "part", times, None)
    return Result([whole, part], profile=_phases(times))


PHASES = {
    "begin": "the interpreter and the modules",
    "read": "the image is read, checked and measured, which by hand was done before",
    "lease": "the lease: the choice, its file, its CPUs, its scope",
    "qemu": "QEMU starts, stopped, and each of its threads gets its CPU",
}


def _phases(times: list[Times]) -> str:
    """Say what comes before the enclave's first instruction."""
    lines = [f"{seconds(median(one[f'whole_{key}'] for one in times)):>8}  {what}" for key, what in PHASES.items()]
    return "\n".join(["run-enclave before the enclave runs, in emulation:", *lines])


def _figure(work: str, name: str, times: list[Times], target: Target | None) -> Figure:
    before = seconds(median(sum(one[f"{name}_{key}"] for key in ("begin", "read", "lease")) for one in times))
    note = f"of ours {before} are before QEMU runs: the image is read and measured, and the lease taken"
    return ratio(work, "QEMU by hand", [Pair(one[name], one["theirs"]) for one in times], target, note=note)
