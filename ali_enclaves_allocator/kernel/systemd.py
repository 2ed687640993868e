"""The door to systemd's manager: its own commands, which wait for their job to end."""

import errno
import subprocess


def systemd(*command: str) -> str:
    """Run one of systemd's commands and return what it prints.

    Raises:
        OSError: the command failed; says what it said.
    """
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except subprocess.CalledProcessError as error:
        reason = " ".join(error.stderr.split()) or f"exit status {error.returncode}"
        raise OSError(errno.EIO, f"{command[0]}: {reason}") from error
    return done.stdout
