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
    return Result(
        [
            _figure(work, "whole", times, Target("≤", 1.1)),
            _figure("the same from a pool of five times its memory", "part", times, None),
        ]
    )


def _figure(work: str, name: str, times: list[Times], target: Target | None) -> Figure:
    before = seconds(median(one[f"{name}_before_qemu"] for one in times))
    note = f"of ours {before} are before QEMU runs: the image is read and measured, and the lease taken"
    return ratio(work, "QEMU by hand", [Pair(one[name], one["theirs"]) for one in times], target, note=note)
