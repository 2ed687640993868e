"""Prints what a start of the service has imported when it says READY, one module a line: `python -m tests.sim.ready`.

Left out are our own modules, those of a bare interpreter, and what only the simulation imports.
"""

import sys

OURS = ("ali_enclaves_allocator", "tests", "__mp_main__")


def main() -> None:
    """Import what the command imports, start a daemon on a simulated kernel, and print what that took."""
    bare = frozenset(sys.modules)
    import asyncio
    import logging

    from ali_enclaves_allocator import cli, daemon, journal, serve, unit  # noqa: F401

    of_the_command = frozenset(sys.modules)
    import tempfile
    from pathlib import Path

    from ali_enclaves_allocator.change.ledger import Ledger
    from tests.machines import GUEST_2X2X2
    from tests.sim.host import BOOT_ID, Host

    logging.disable(logging.CRITICAL)
    with_the_simulation = frozenset(sys.modules)

    def notify(*assignments: str) -> None:
        if "READY=1" in assignments:
            names = (of_the_command | frozenset(sys.modules) - with_the_simulation) - bare
            print("\n".join(sorted(name for name in names if name.partition(".")[0] not in OURS)))

    unit.notify = notify

    async def live(directory: Path) -> None:
        host = Host(GUEST_2X2X2, directory)
        host.configure(memory_mib=64, cpu_count=2)
        paths = daemon.Paths(host.config_path, directory)
        service = daemon.Daemon(paths, host.simulation.kernel, Ledger(directory, BOOT_ID))
        await service.start()
        await service.stop(keep=False)

    with tempfile.TemporaryDirectory() as name:
        asyncio.run(live(Path(name)))


if __name__ == "__main__":
    main()
