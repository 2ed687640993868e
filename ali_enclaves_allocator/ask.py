"""The pool as a running service tells it: once, or for as long as there is a service."""

import errno
import time
from collections.abc import Iterator
from typing import Any

from enclave_cli.client import Client, Unavailable

INTERFACE = "io.ali-enclaves.Allocator"

RESTART_SECONDS = 90.0
"""How long a service that is started again may take until it answers, as its unit has it (TimeoutStartSec=)."""

PAUSE_SECONDS = 0.1


ANSWER_SECONDS = 30.0


def asked(socket: str, seconds: float = ANSWER_SECONDS) -> dict[str, Any]:
    """Return the pool, if the service tells it within so many seconds. Raises CallError and Unavailable."""
    with Client(socket, seconds) as client:
        pool: dict[str, Any] = client.call(f"{INTERFACE}.GetPool")["pool"]
        return pool


def watched(socket: str, output: int) -> Iterator[dict[str, Any]]:
    """Yield the pool, and again after every change, until the service stops or nobody reads the descriptor `output`.

    A restart ends a connection too, but systemd keeps the socket, where the next service answers.

    Raises CallError, BrokenPipeError, and Unavailable: of a service that was there it is ECONNRESET or EPIPE.
    """
    is_there, lost = False, None
    while True:
        try:
            with Client(socket, RESTART_SECONDS) as client:
                for reply in client.stream(f"{INTERFACE}.Watch", output=output):
                    is_there, lost = True, None
                    yield reply["pool"]
        except Unavailable as error:
            if not is_there or error.errno not in (errno.ECONNRESET, errno.EPIPE):
                raise lost or error from None
            lost = error
            time.sleep(PAUSE_SECONDS)
