"""A short run of the soak's walks, always the same ones; `make soak` walks on, and elsewhere each time."""

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.soak.machine import STEPS, Walk


def test_nothing_is_lost_on_any_walk() -> None:
    run_state_machine_as_test(
        Walk,
        settings=settings(
            max_examples=450,
            stateful_step_count=STEPS,
            derandomize=True,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
