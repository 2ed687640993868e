"""The process around the daemon: signals, the watchdog, the exit status."""

import asyncio
import logging
import signal
from pathlib import Path

from ali_enclaves_allocator import unit
from ali_enclaves_allocator.change.ledger import Ledger
from ali_enclaves_allocator.daemon import Daemon, Paths, beside
from ali_enclaves_allocator.kernel.instance import read_instance
from ali_enclaves_allocator.kernel.linux import boot_id, linux_kernel
from ali_enclaves_allocator.model.errors import AllocatorError
from ali_enclaves_allocator.model.events import REFUSED
from ali_enclaves_allocator.model.instance import remarks

log = logging.getLogger(__name__)

EX_SOFTWARE = 70
"""Exit status after a fault of the program's own (sysexits.h)."""


async def run(config: Path, directory: Path) -> int:
    """Serve this machine until SIGTERM or SIGINT. Return the exit status."""
    directory.mkdir(mode=0o755, exist_ok=True)
    kernel = linux_kernel(directory)
    this = read_instance()
    for told in (f"instance: {this.describe()}", *remarks(this, len(kernel.sysfs.present()))):
        log.info("%s", told)
    return await serve(Daemon(Paths(config, directory), kernel, Ledger(directory, boot_id())))


async def serve(daemon: Daemon) -> int:
    """Run a daemon until SIGTERM or SIGINT. Return the exit status."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    try:
        await daemon.start()
    except AllocatorError as error:
        log.error("%s", error, extra=REFUSED)
        unit.status(error.what())
        await daemon.close()
        return error.exit_code
    except Exception:
        log.exception("a fault of the allocator's own; what the ledger records stays for the next start")
        await daemon.close()
        return EX_SOFTWARE
    async with beside(_feed_watchdog(daemon)):
        await ended.wait()
    unit.notify("STOPPING=1")
    try:
        await daemon.stop(keep=await unit.has_successor())
    except AllocatorError as error:
        log.error("%s", error, extra=REFUSED)
        return error.exit_code
    return 0


async def _feed_watchdog(daemon: Daemon) -> None:
    """Tell systemd that the daemon lives, each time it passed its own check."""
    interval = unit.watchdog_interval_s()
    while interval:
        if await daemon.healthy():
            unit.notify("WATCHDOG=1")
        else:
            log.error("the daemon does not answer on its own socket; systemd will restart it")
        await asyncio.sleep(interval)
