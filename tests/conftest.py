"""What every test may ask for."""

import signal
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import settings

from tests.machines import Machine
from tests.sim.host import Host

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and its children would

settings.register_profile("events", deadline=None)
settings.load_profile("events")  # a test asserts events and counts, never times

Boot = Callable[[Machine], Host]


@pytest.fixture
def boot() -> Iterator[Boot]:
    """Boot simulated machines, each with a run directory of its own; in memory, as /run is."""
    numbers = count()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as run:

        def boot_one(machine: Machine) -> Host:
            directory = Path(run, f"host{next(numbers)}")
            directory.mkdir()
            return Host(machine, directory)

        yield boot_one
