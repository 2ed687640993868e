"""What the daemon's tests share: a file, and a status that is asked for."""

import asyncio
import sys

import pytest

from ali_enclaves_allocator import cli
from tests.sim.host import Host

DOCUMENTED = {"memory_mib": 64, "cpu_count": 2}


def status_command(host: Host, *options: str) -> list[str]:
    """Return the command `status` as a process of its own."""
    code = (
        "import sys; from pathlib import Path; from ali_enclaves_allocator import cli; "
        f"cli.DIRECTORY = Path({str(host.directory)!r}); sys.exit(cli.main(['status', *sys.argv[1:]]))"
    )
    return [sys.executable, "-c", code, *options]


async def status(host: Host, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr(cli, "DIRECTORY", host.directory)
    return await asyncio.to_thread(cli.main, ["status", *options])
