"""What the daemon's tests share: a file, and a status that is asked for."""

import asyncio

import pytest

from ali_enclaves_allocator import cli
from tests.sim.host import Host

DOCUMENTED = {"memory_mib": 64, "cpu_count": 2}


async def status(host: Host, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr(cli, "DIRECTORY", host.directory)
    return await asyncio.to_thread(cli.main, ["status", *options])
