"""Walk for long: `python -m tests.soak --steps 100000 --seed 1`. The seed of a failure is printed first.

`--of allocator` walks with processes of the allocator that die anywhere, `--of service` with one service on its socket.
"""

import argparse
import random

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.sim.nursery import Nursery
from tests.soak.machine import STEPS, Walk
from tests.soak.service import ServiceWalk

WALKS: dict[str, type[Walk | ServiceWalk]] = {"allocator": Walk, "service": ServiceWalk}


def main() -> None:
    """Walk so many steps, or until something is found; with `--shrink`, until the walk to it is short."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--of", choices=WALKS, default="allocator")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--shrink", action="store_true", help="shorten what is found, which takes minutes")
    arguments = parser.parse_args()
    print(f"walk {arguments.steps} steps of the {arguments.of}: seed {arguments.seed}", flush=True)
    kind = WALKS[arguments.of]
    ServiceWalk.nursery = Nursery()
    try:
        while (left := arguments.steps - kind.taken) > 0:  # a walk may be shorter than it could be
            walk(kind, arguments.seed, -(-left // STEPS), arguments.shrink)
            arguments.seed += 1
    finally:
        ServiceWalk.nursery.close()
    print(f"{kind.taken} steps, and nothing was lost", flush=True)


def walk(kind: type[Walk | ServiceWalk], number: int, walks: int, shrink: bool) -> None:
    """Walk so many times, as the seed has it."""
    run_state_machine_as_test(
        seed(number)(kind),
        settings=settings(
            max_examples=walks,
            stateful_step_count=STEPS,
            database=None,
            report_multiple_bugs=False,
            phases=[Phase.generate, *([Phase.shrink] if shrink else [])],
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


if __name__ == "__main__":
    main()
