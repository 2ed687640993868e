"""A restart without a change, against a stop and a start of the same."""

from tests.bench.figures import Pair, Result, Target, ratio
from tests.bench.in_guest import measure as in_guest
from tests.bench.row import Options


def measure(options: Options) -> Result:
    """Restart the service of the shipped file."""
    pairs = [Pair(times["ours"], times["theirs"]) for times in in_guest("restart", options.pairs)]
    note = "no write at all, which `tests/sim/test_counts.py` asserts"
    return Result([ratio("restart without a change", "stop + start of the same", pairs, Target("≤", 0.5), note=note)])
