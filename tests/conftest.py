"""What every test may ask for."""

import signal
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from tests.machines import Machine
from tests.sim.host import Host

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and its children would

settings.register_profile("events", deadline=None)
settings.load_profile("events")  # a test asserts events and counts, never times


class ByPart(LoadScopeScheduling):
    """Hands out single tests, but of the guests' ring whole parts: what shares a guest runs in one process."""

    def _split_scope(self, nodeid: str) -> str:
        """Return the part of a test `…::test_script[PART: SCRIPT]`; any other test is a part of its own."""
        name = nodeid.rpartition("::")[2]
        return name.partition(":")[0] if name.startswith("test_script[") else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config) -> ByPart:
    """Let pytest-xdist schedule by parts."""
    return ByPart(config)


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
