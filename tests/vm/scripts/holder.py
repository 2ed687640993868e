#!/usr/bin/env python3
"""Takes a lease, says what it got in one line of JSON, and holds it until its standard input ends.

Usage: holder.py [--online] [--name NAME] [--node NODE] [--map] [--grow] [--own] [--give-up] CPUS MIB
"""

import argparse
import errno
import fcntl
import json
import mmap
import os
import socket
import sys
import time
from pathlib import Path

SOCKET = "/run/ali-enclaves/allocator.sock"
METHOD = "io.ali-enclaves.Allocator.Acquire"


def acquire(parameters: dict) -> tuple[dict, list[int]]:
    """Call Acquire and return the reply with its descriptors."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(SOCKET)
    connection.sendall(json.dumps({"method": METHOD, "parameters": parameters}).encode() + b"\0")
    data, fds = b"", []
    while not data.endswith(b"\0"):
        part, received, _, _ = socket.recv_fds(connection, 65536, 4)
        data, fds = data + part, fds + list(received)
        if not part:
            raise SystemExit("holder: the service closed the connection")
    return json.loads(data[:-1]), fds


def own(memory: int) -> list[str]:
    """Open the memory anew; try for a file lease, which would keep others out, and for another mode. Tell of each."""

    def opened() -> None:
        os.close(os.open(f"/proc/self/fd/{memory}", os.O_RDWR))

    told = []
    attempts = opened, lambda: fcntl.fcntl(memory, fcntl.F_SETLEASE, fcntl.F_WRLCK), lambda: os.fchmod(memory, 0o666)
    for attempt in attempts:
        try:
            attempt()
            told.append("opened")
        except OSError as error:
            told.append(errno.errorcode[error.errno])
    return told


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--online", action="store_true")
    parser.add_argument("--name")
    parser.add_argument("--node", type=int)
    parser.add_argument("--map", action="store_true", help="check that the memory is clear, then write all over it")
    parser.add_argument("--grow", action="store_true", help="try to get one page more than the lease")
    parser.add_argument("--own", action="store_true", help="tell what only an owner of the memory may do")
    parser.add_argument("--give-up", action="store_true", help="make the memory free, and map as much of it")
    parser.add_argument("cpus", type=int)
    parser.add_argument("mib", type=int)
    options = parser.parse_args()
    wanted = {"cpu_count": options.cpus, "memory_mib": options.mib, "online": options.online}
    chosen = {"name": options.name, "node": options.node}
    reply, fds = acquire(wanted | {key: value for key, value in chosen.items() if value is not None})
    kept = []
    if "error" not in reply:
        lease = reply["parameters"]["lease"]
        lease["allowed_cpus"] = sorted(os.sched_getaffinity(0))
        lease["cgroup"] = Path("/proc/self/cgroup").read_text().strip()
        if options.map:
            with mmap.mmap(fds[0], lease["memory_mib"] << 20) as memory:
                page = 2 << 20
                offsets = range(0, len(memory), page)
                lease["clear"] = all(memory[at : at + page].count(0) == page for at in offsets)
                for at in offsets:
                    memory[at : at + page] = b"s" * page
        size = lease["memory_mib"] << 20
        while (options.grow or options.give_up) and os.fstat(fds[0]).st_blocks * 512 > size:
            time.sleep(0.05)  # the rest of the bank, until the service holds it again
        if options.grow:
            try:
                os.posix_fallocate(fds[0], 0, size + (2 << 20))
                lease["grew"] = True
            except OSError as error:
                lease["grew"] = False
                lease["grow_error"] = error.strerror
        if options.own:
            lease["own"] = own(fds[0])
        if options.give_up:
            os.ftruncate(fds[0], 0)
            os.ftruncate(fds[0], size)
            kept.append(mmap.mmap(fds[0], size, mmap.MAP_SHARED))  # promised, and in no file
            lease["has_mib"] = os.fstat(fds[0]).st_blocks >> 11
    print(json.dumps(reply), flush=True)
    if "error" in reply:
        return 1
    sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
