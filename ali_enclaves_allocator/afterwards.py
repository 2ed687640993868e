"""The process that gives back what a lease held that outlived the service; the end of its scope starts it."""

import logging
import os
import time
from contextlib import suppress
from pathlib import Path

from ali_enclaves_allocator import line
from ali_enclaves_allocator.ask import asked
from ali_enclaves_allocator.change.ledger import Ledger
from ali_enclaves_allocator.kernel.doors import Kernel
from ali_enclaves_allocator.kernel.linux import boot_id, linux_kernel
from ali_enclaves_allocator.model.errors import AllocatorError, AlreadyRunning
from ali_enclaves_allocator.model.events import REFUSED
from ali_enclaves_allocator.model.refusals import NotPermitted
from ali_enclaves_allocator.server.endpoint import listens
from enclave_cli.client import CallError, Unavailable

log = logging.getLogger(__name__)

WAIT_SECONDS = 60
"""How long to ask for the ledger: two leases may end at once, or the service just stops."""

POLL_SECONDS = 0.1

NOT_PERMITTED = 1
"""Exit status for a caller who is not root, as `reload` has it."""


def run(directory: Path) -> int:
    """Give back what no living holder's lease holds. Return the exit status."""
    if uid := os.geteuid():
        log.error("%s", NotPermitted("root", "give back", uid), extra=REFUSED)
        return NOT_PERMITTED
    return give_back(directory, linux_kernel(directory), Ledger(directory, boot_id()))


def give_back(directory: Path, kernel: Kernel, ledger: Ledger) -> int:
    """Do so unless a service runs, which does it by itself. Return the exit status."""
    try:
        if _mine(ledger, directory / "allocator.sock"):
            line.leave(kernel, ledger)
        return 0
    except AllocatorError as error:
        log.error("%s", error, extra=REFUSED)
        return error.exit_code
    finally:
        ledger.close()


def _mine(ledger: Ledger, service: Path) -> bool:
    """Take the ledger, or find that a service has it or is about to.

    Raises:
        AlreadyRunning: somebody else has it who is no service and does not end.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        if _gives_back(service, deadline):
            log.info("the service runs and gives back by itself")
            return False
        try:
            ledger.open(deadline - time.monotonic(), in_vain=lambda: listens(service))
        except AlreadyRunning:
            if time.monotonic() >= deadline:
                raise
        else:
            return True


def _gives_back(service: Path, deadline: float) -> bool:
    """Wait until a service says that it stays, or none is left.

    A free ledger does not tell that there is none: systemd keeps the socket of one that was killed, or that is
    restarted, and the next one, which wants the pool as it is, answers there. One that stops for good closes it.
    """
    while listens(service) and (left := deadline - time.monotonic()) > 0:
        with suppress(CallError, Unavailable):
            if asked(str(service), left)["state"] != "stopping":
                return True
        time.sleep(POLL_SECONDS)
    return False
