"""The door to systemd's manager: its own commands, which wait for their job to end."""

import errno
import subprocess

ANSWER_S = 60.0
"""How long a command may take; a manager that hangs must not hang the allocator, which says so and can try again."""


def systemd(*command: str) -> str:
    """Run one of systemd's commands and return what it prints.

    Raises:
        OSError: the command failed, and said why; or there was no answer (ETIMEDOUT).
    """
    try:
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=ANSWER_S
        )
    except subprocess.CalledProcessError as error:
        reason = " ".join(error.stderr.split()) or f"exit status {error.returncode}"
        raise OSError(errno.EIO, f"{command[0]}: {reason}") from error
    except subprocess.TimeoutExpired as error:
        raise OSError(errno.ETIMEDOUT, f"{command[0]}: no answer from systemd in {ANSWER_S:g} s") from error
    return done.stdout
