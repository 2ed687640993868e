"""The door to systemd's manager: its own commands, which wait for their job to end."""

import errno
import os
import subprocess
from collections.abc import Sequence

ANSWER_S = 60.0
"""How long a command may take; a manager that hangs must not hang the allocator, which says so and can try again."""


def systemd(*command: str) -> str:
    """Run one of systemd's commands and return what it prints.

    Raises:
        OSError: the command failed, and said why; or there was no answer (ETIMEDOUT).
    """
    done = _run(command)
    if done.returncode:
        reason = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise OSError(errno.EIO, f"{command[0]}: {reason}")
    return done.stdout


def systemd_run(*command: str) -> None:
    """Let systemd run a command outside this service's sandbox, whose exit status is an error number.

    Raises:
        OSError: the command ended with that error number, or there was no answer (ETIMEDOUT).
    """
    done = _run(("systemd-run", "--quiet", "--collect", "--wait", "--no-ask-password", "--", *command))
    if done.returncode:
        raise OSError(done.returncode, os.strerror(done.returncode))


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end.

    Raises:
        OSError: there is no such command, or no answer.
    """
    try:
        return subprocess.run(
            command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=ANSWER_S
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(errno.ETIMEDOUT, f"{command[0]}: no answer from systemd in {ANSWER_S:g} s") from error
