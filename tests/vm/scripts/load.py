#!/usr/bin/env python3
"""Loads the service with clients for a while, and tells how it bore it; fails if one was not served as it must be.

Usage: load.py SECONDS CONNECTIONS WATCHERS SILENT

CONNECTIONS ask once, and stay open and idle. WATCHERS watch; SILENT of them never read, and may be dropped for it, the
others must be told of every lease that comes or goes: what they were told last is what the service says at the end.
Meanwhile GetPool is called ten times a second. Prints the latencies and, of the service, its memory and descriptors.
"""

import json
import os
import selectors
import socket
import statistics
import sys
import time
from pathlib import Path

import varlink

WATCH = json.dumps({"method": "io.ali-enclaves.Allocator.Watch", "more": True}).encode() + b"\0"
PAUSE_SECONDS = 0.1
SAMPLE_SECONDS = 2.0
SLACK_KIB = 2048
"""What a short run may grow by beside one part in twenty: it has not seen all yet that it keeps."""


class Watcher:
    """A client that reads what it is told, and remembers the last of it."""

    def __init__(self) -> None:
        self.socket = varlink.connected()
        self.socket.sendall(WATCH)
        self.partial, self.told, self.last = b"", 0, {}

    def read(self) -> None:
        """Take what came."""
        data = self.socket.recv(1 << 18)
        if not data:
            sys.exit("a watcher that reads was dropped")
        *frames, self.partial = (self.partial + data).split(b"\0")
        if frames:
            self.told += len(frames)
            self.last = json.loads(frames[-1])["parameters"]["pool"]


def main(seconds: float, connections: int, watchers: int, silent: int) -> None:
    """Load it, and tell."""
    idle = [varlink.connected() for _ in range(connections)]
    for client in idle:
        client.sendall(varlink.CALL)
        varlink.answer(client)
    mute = [varlink.connected() for _ in range(silent)]
    for client in mute:
        client.sendall(WATCH)
    readers = [Watcher() for _ in range(watchers - silent)]
    selector = selectors.DefaultSelector()
    for reader in readers:
        selector.register(reader.socket, selectors.EVENT_READ, reader)
    pid = main_pid()
    samples: list[tuple[int, int]] = []
    latencies: list[float] = []
    began = sampled = time.monotonic()
    print("loaded", flush=True)
    while time.monotonic() < began + seconds:
        latencies.append(latency())
        if time.monotonic() > sampled + SAMPLE_SECONDS:
            sampled = time.monotonic()
            samples.append(usage(pid))
        listen(selector, PAUSE_SECONDS)
    if main_pid() != pid:
        sys.exit("the service was restarted")
    wait_until_all_know(selector, readers)
    tell(latencies, samples, readers)
    for client in (*idle, *mute, *(reader.socket for reader in readers)):
        client.close()


def latency() -> float:
    """Return the seconds of one GetPool, on a connection of its own."""
    began = time.monotonic()
    with varlink.connected() as client:
        client.sendall(varlink.CALL)
        varlink.answer(client)
    return time.monotonic() - began


def listen(selector: selectors.BaseSelector, seconds: float) -> None:
    """Read what watchers are told for so long."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        for key, _ in selector.select(left):
            key.data.read()


def wait_until_all_know(selector: selectors.BaseSelector, readers: list[Watcher]) -> None:
    """Fail unless every watcher learns what GetPool says; others have ended their leases by now."""
    until = time.monotonic() + varlink.SECONDS
    while True:
        listen(selector, 1)
        with varlink.connected() as client:
            client.sendall(varlink.CALL)
            now = varlink.answer(client)
        behind = [reader for reader in readers if reader.last["leases"] != now["leases"]]
        if not behind:
            return
        if time.monotonic() > until:
            sys.exit(f"{len(behind)} watchers were not told the last of it")


def main_pid() -> int:
    """Return the pid of the service, by its socket's other end."""
    with varlink.connected() as client:
        return int.from_bytes(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], sys.byteorder)


def usage(pid: int) -> tuple[int, int]:
    """Return the resident KiB of a process, and how many descriptors it has."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    return kib, len(os.listdir(f"/proc/{pid}/fd"))


def medians(samples: list[tuple[int, int]]) -> tuple[float, float]:
    """Return the median memory and the median number of descriptors."""
    return statistics.median(kib for kib, _ in samples), statistics.median(fds for _, fds in samples)


def tell(latencies: list[float], samples: list[tuple[int, int]], readers: list[Watcher]) -> None:
    """Print the figures, and fail if memory or descriptors grew: from the second quarter of the time to the last."""
    ordered = sorted(latencies)
    at = [ordered[int(len(ordered) * part)] * 1000 for part in (0.5, 0.99)]
    print(f"GetPool {len(ordered)} times: median {at[0]:.1f} ms, p99 {at[1]:.1f} ms, worst {ordered[-1] * 1000:.1f} ms")
    told = [reader.told for reader in readers]
    print(f"watchers were told {min(told)} to {max(told)} times")
    quarter = len(samples) // 4
    (kib, fds), (kib_late, fds_late) = map(medians, (samples[quarter : 2 * quarter], samples[-quarter:]))
    print(f"resident {kib:.0f} KiB, later {kib_late:.0f}; descriptors {fds:.0f}, later {fds_late:.0f}")
    if kib_late > kib * 1.05 + SLACK_KIB:
        sys.exit("the service grew")
    if abs(fds_late - fds) > 16:
        sys.exit("descriptors were not closed")


if __name__ == "__main__":
    main(float(sys.argv[1]), *map(int, sys.argv[2:]))
