"""Wakes up on every CPU that it may use, again and again, until SIGTERM; then prints the CPUs that it ever ran on.

Usage: spinner.py [SECONDS]; so long it sleeps each time, or nearly not at all.
"""

import ctypes
import os
import signal
import sys
import time

WAKERS_PER_CPU = 2
PAUSE_SECONDS = float((*sys.argv, "0.05")[1])

getcpu = ctypes.CDLL(None).sched_getcpu
seen: set[int] = set()
children = []


def wake(writer: int) -> None:
    """Spin for a moment, sleep for a longer one: the scheduler places the task anew each time."""
    signal.signal(signal.SIGTERM, lambda *_: (os.write(writer, bytes(sorted(seen))), os._exit(0)))
    while True:
        seen.update(getcpu() for _ in range(200))
        time.sleep(PAUSE_SECONDS)


def finish(*_: object) -> None:
    """Collect what the children saw."""
    for child, reader in children:
        os.kill(child, signal.SIGTERM)
        seen.update(os.read(reader, 4096))
        os.waitpid(child, 0)
    print(*sorted(seen))
    sys.exit(0)


for _ in range(WAKERS_PER_CPU * (os.cpu_count() or 1)):
    reader, writer = os.pipe()
    if not (child := os.fork()):
        wake(writer)
    os.close(writer)
    children.append((child, reader))
signal.signal(signal.SIGTERM, finish)
signal.pause()
