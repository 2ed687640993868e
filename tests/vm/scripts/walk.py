"""Walks: does steps at random, and has the oracle judge after each.

Usage: walk.py STEPS SEED

What a step draws depends on the seed and its number, so that the same seed makes the same choices, as far as the
machine gives the same answers. The first thing that is not as it must be ends the walk.
"""

import random
import sys
import time
import traceback
from collections import Counter, deque

from walk_oracle import Broken, Oracle
from walk_others import Others
from walk_steps import STEPS, Steps

LAST = 20
"""How many steps are told of a walk that failed."""


def main(count: int, seed: int) -> None:
    """Walk so many steps, and go home."""
    others = Others()
    oracle = Oracle(others, {})
    steps, last, done, began = Steps(others, oracle), deque[str](maxlen=LAST), Counter[str](), time.monotonic()
    number = 0
    try:
        steps.begin()
        for number in range(1, count + 1):
            dice = random.Random(f"{seed}:{number}")
            for step in shuffled(dice):
                last.append(f"{number}: {step.__name__} did not end")
                if told := step(steps, dice):
                    break
                last.pop()
            last[-1] = f"{number}: {time.monotonic() - began:.1f} s: {told}"
            print(last[-1], flush=True)
            done[step.__name__] += 1
            oracle.judge()
        last.append("the end of all")
        steps.finish(random.Random(f"{seed}:end"))
        oracle.judge()
    except Exception as error:  # such as a service that does not answer
        wrong = f"what is wrong: {error if isinstance(error, Broken) else traceback.format_exc()}"
        sys.exit("\n".join([f"WALK FAILED: seed {seed}, step {number}; the last steps:", *last, wrong]))
    seconds = time.monotonic() - began
    print(f"{count} steps in {seconds:.0f} s, the witness looked {oracle.looks} times: {dict(done.most_common())}")


def shuffled(dice: random.Random) -> list:
    """Return all steps in a random order, those first that are chosen more often (Efraimidis and Spirakis)."""
    keys = {step: dice.random() ** (1 / weight) for step, weight in STEPS.items()}
    return sorted(STEPS, key=keys.__getitem__, reverse=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
