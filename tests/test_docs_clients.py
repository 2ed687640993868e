"""The clients of the documentation: each follows a real daemon on the simulated kernel, in a process of its own."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Boot
from tests.foreign import command
from tests.machines import GUEST_2X2X2
from tests.sim.daemons import running, socket_of

CLIENTS = Path(__file__).parent.parent / "docs/clients"
SECONDS = 60


@pytest.mark.parametrize(
    "client", [["sh", "free-cpus.sh"], [sys.executable, "-I", "free-cpus.py"]], ids=["sh", "python"]
)
def test_a_client_follows_the_pool(
    client: list[str], boot: Boot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = boot(GUEST_2X2X2)
    host.configure(memory_mib=64, cpu_count=2)
    varlinkctl = tmp_path / "varlinkctl"
    varlinkctl.write_text(f'#!/bin/sh\nexec {" ".join(command("varlinkctl"))} "$@"\n')
    varlinkctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    process = None

    async def test() -> None:
        nonlocal process
        async with running(host) as daemon:
            process = subprocess.Popen(
                [*client[:-1], str(CLIENTS / client[-1]), socket_of(host)], stdout=subprocess.PIPE, text=True
            )
            assert process.stdout
            assert await asyncio.to_thread(process.stdout.readline) == "ready: 2 of 2 CPUs free\n"
            host.configure(memory_mib=64, cpu_count=4)
            await daemon.reload()
            assert await asyncio.to_thread(process.stdout.readline) == "ready: 4 of 4 CPUs free\n"
            host.configure(memory_mib=64, cpu_count=2, offline="leased")
            await daemon.reload()
            assert await asyncio.to_thread(process.stdout.readline) == "ready: 2 of 2 CPUs free\n"
            host.configure(memory_mib=64, cpu_count=4)
            await daemon.reload()
            assert await asyncio.to_thread(process.stdout.readline) == "ready: 4 of 4 CPUs free\n"
            host.simulation.online.add(5)
            daemon.look()
            assert await asyncio.to_thread(process.stdout.readline) == "degraded: 4 of 4 CPUs free\n"
        rest, _ = await asyncio.to_thread(process.communicate, timeout=SECONDS)
        assert rest.startswith("stopping: ")

    try:
        asyncio.run(test())
    finally:
        if process:
            process.kill()
            process.communicate()


def test_every_client_counts_what_an_enclave_may_have() -> None:
    """The one in Go too, which is not run: a core of the pool is free in either use."""
    for path in CLIENTS.iterdir():
        assert {'"pool"', '"lendable"'} <= set(re.findall(r'"\w+"', path.read_text())), path


def test_the_clients_are_short() -> None:
    assert {path.suffix: len(path.read_text().splitlines()) < 70 for path in CLIENTS.iterdir()} == {
        ".sh": True,
        ".py": True,
        ".go": True,
    }
