"""Short runs of the soak's walks, always the same ones; `make soak` walks on, and elsewhere each time."""

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.sim.nursery import Nursery
from tests.soak.machine import STEPS, Walk
from tests.soak.service import ServiceWalk


def test_nothing_is_lost_on_any_walk() -> None:
    walk(Walk, 450)


def test_the_service_tells_the_truth_on_any_walk() -> None:
    ServiceWalk.nursery = Nursery()
    try:
        walk(ServiceWalk, 30)
    finally:
        ServiceWalk.nursery.close()


def walk(kind: type[RuleBasedStateMachine], walks: int) -> None:
    run_state_machine_as_test(
        kind,
        settings=settings(
            max_examples=walks,
            stateful_step_count=STEPS,
            derandomize=True,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
