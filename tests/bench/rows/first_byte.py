"""From `run-enclave` to the enclave's first byte over vsock, against the same QEMU by hand on CPUs that are free."""

import subprocess
from statistics import median

from tests.bench.figures import Pair, Result, Target, ratio, seconds
from tests.bench.in_guest import ROOT
from tests.bench.in_guest import measure as in_guest
from tests.bench.row import Options

IMAGE = ROOT / "build" / "hello-small.eif"


def measure(options: Options) -> Result:
    """Boot both in turns: the sample enclave, whose first byte is its heartbeat."""
    subprocess.run([ROOT / "examples/hello/build", "--small", IMAGE], cwd=ROOT, check=True)
    times = in_guest("first_byte", options.pairs, script="first_byte.py", files=[IMAGE])
    before = median(one["before_qemu"] for one in times)
    note = f"of ours {seconds(before)} are before QEMU runs: the image is read and measured, and the lease taken"
    pairs = [Pair(one["ours"], one["theirs"]) for one in times]
    return Result(
        [ratio("run-enclave to the first byte over vsock", "QEMU by hand", pairs, Target("≤", 1.1), note=note)]
    )
