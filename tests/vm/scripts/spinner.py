"""Runs on every CPU that it can get, again and again, until SIGTERM; then prints the CPUs that it ever ran on.

Usage: spinner.py [SECONDS]; so long it sleeps each time, or nearly not at all. Most of its tasks run where the
scheduler places them; one asks for each CPU of the machine in turn, so that none that can be had is left to chance.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time

WAKERS_PER_CPU = 2
PAUSE_SECONDS = float((*sys.argv, "0.05")[1])

getcpu = ctypes.CDLL(None).sched_getcpu
VISITOR = "visitor"
"""The name of the one that asks, for whoever looks at which CPUs a task may use: it chose them itself."""

seen: set[int] = set()
children = []


def wake(writer: int) -> None:
    """Spin for a moment, sleep for a longer one: the scheduler places the task anew each time."""
    signal.signal(signal.SIGTERM, lambda *_: (os.write(writer, bytes(sorted(seen))), os._exit(0)))
    while True:
        seen.update(getcpu() for _ in range(200))
        time.sleep(PAUSE_SECONDS)


def visit(writer: int) -> None:
    """Ask for one CPU after the other; a CPU that a cpuset keeps from this task, or that is offline, is refused.

    It ends with a whole round, so that what it says holds for the moment in which it was asked too.
    """
    with open("/proc/self/comm", "w", encoding="ascii") as comm:
        comm.write(VISITOR)
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    while not asked:
        visit_each()
        time.sleep(PAUSE_SECONDS)
    visit_each()
    os.write(writer, bytes(sorted(seen)))
    os._exit(0)


def visit_each() -> None:
    """One round over the machine's CPUs; a task with one CPU runs there as soon as it is set."""
    for cpu in range(os.sysconf("SC_NPROCESSORS_CONF")):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, {cpu})
            seen.add(getcpu())


def finish(*_: object) -> None:
    """Collect what the children saw."""
    for child, reader in children:
        os.kill(child, signal.SIGTERM)
        seen.update(os.read(reader, 4096))
        os.waitpid(child, 0)
    print(*sorted(seen))
    sys.exit(0)


for work in [visit] + [wake] * WAKERS_PER_CPU * (os.cpu_count() or 1):
    reader, writer = os.pipe()
    if not (child := os.fork()):
        work(writer)
    os.close(writer)
    children.append((child, reader))
signal.signal(signal.SIGTERM, finish)
signal.pause()
