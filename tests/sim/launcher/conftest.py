"""A launcher and an allocator of the test, whose enclaves end with it."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sim.launcher.stand import (
    WITHOUT_VSOCK,
    Cli,
    FakeAllocator,
    until,
)


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    with tempfile.TemporaryDirectory(prefix="evm-") as run_directory:  # short: the path of a socket has 107 bytes
        yield Cli(tmp_path, Path(run_directory), WITHOUT_VSOCK)


@pytest.fixture
def allocator(cli: Cli) -> Iterator[FakeAllocator]:
    allocator = FakeAllocator(cli.socket)
    yield allocator
    for lease in list(allocator.leases.values()):
        os.kill(lease.holder.pid, signal.SIGKILL)
    until(lambda: not allocator.leases)
    allocator.stop()
