"""Fuzz a reader, guided by the code that it reaches: `python -m tests.soak.fuzz yaml --seconds 1800 --seed 1`.

New inputs go to `.cache/fuzz/`, the one that fails to `.cache/fuzz/<reader>-crash-…`. It needs atheris
(`soak-requirements.txt`).
"""

import argparse
import random
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ali_enclaves_allocator", "enclave_cli", "yaml"]):
    from tests.soak.readers import CORPUS, READERS

FOUND = Path(__file__).parents[2] / ".cache" / "fuzz"


def main() -> None:
    """Fuzz until the time is over, or something is found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("--seconds", type=int, default=1800)
    parser.add_argument("--seed", type=int, default=random.randrange(1, 1 << 31))
    arguments = parser.parse_args()
    found = FOUND / arguments.reader
    found.mkdir(parents=True, exist_ok=True)
    print(f"fuzz {arguments.reader}: seed {arguments.seed}", flush=True)
    options = [
        f"-max_total_time={arguments.seconds}",
        f"-seed={arguments.seed}",
        f"-artifact_prefix={FOUND / arguments.reader}-",
        "-max_len=8192",
        "-rss_limit_mb=1024",
        "-print_final_stats=1",
        "-verbosity=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(found), str(CORPUS / arguments.reader)], READERS[arguments.reader])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
