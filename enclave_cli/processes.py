"""The small processes that a launch consists of: what they keep of their parent, and who ends with whom."""

import contextlib
import os
import signal


def detach(keep: set[int], stderr: int | None = None) -> None:
    """Make this forked process independent of its terminal, and close all it has inherited but `keep`."""
    os.setsid()
    for trap in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(trap, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for number in (0, 1, 2):
        os.dup2(null if stderr is None or number < 2 else stderr, number)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in keep:
            with contextlib.suppress(OSError):  # the descriptor of the listing itself is among them
                os.close(int(name))
    os.chdir("/")


def guard(pidfd: int) -> int:
    """Fork a guard that kills the process of `pidfd` when this process dies before it dismisses the guard.

    Returns what `dismiss` needs. The guard never outlives this process.
    """
    reading, writing = os.pipe()
    if not os.fork():
        try:
            detach({reading, pidfd})
            if not os.read(reading, 1):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os._exit(0)
    os.close(reading)
    return writing


def dismiss(guard: int) -> None:
    """Send the guard home: what it watched may outlive this process."""
    os.write(guard, b"x")
    os.close(guard)
