#!/usr/bin/env python3
"""Takes a lease, says what it got in one line of JSON, and holds it until its standard input ends.

Usage: holder.py [--online] [--name NAME] [--node NODE] [--map] [--grow] [--hold-up] CPUS MIB
"""

import argparse
import fcntl
import json
import mmap
import os
import signal
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


def hold_up(memory: int) -> None:
    """Take a file lease (F_SETLEASE) once the service has closed its own descriptor: whoever opens it must wait."""
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    while True:
        try:
            fcntl.fcntl(memory, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except BlockingIOError:
            time.sleep(0.1)
        else:
            return


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--online", action="store_true")
    parser.add_argument("--name")
    parser.add_argument("--node", type=int)
    parser.add_argument("--map", action="store_true", help="check that the memory is clear, then write all over it")
    parser.add_argument("--grow", action="store_true", help="try to get one page more than the lease")
    parser.add_argument("--hold-up", action="store_true", help="make others wait who open the memory")
    parser.add_argument("cpus", type=int)
    parser.add_argument("mib", type=int)
    options = parser.parse_args()
    wanted = {"cpu_count": options.cpus, "memory_mib": options.mib, "online": options.online}
    chosen = {"name": options.name, "node": options.node}
    reply, fds = acquire(wanted | {key: value for key, value in chosen.items() if value is not None})
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
        if options.grow:
            size = lease["memory_mib"] << 20
            while os.fstat(fds[0]).st_blocks * 512 > size:  # the rest of the bank, until the service holds it again
                time.sleep(0.05)
            try:
                os.posix_fallocate(fds[0], 0, size + (2 << 20))
                lease["grew"] = True
            except OSError as error:
                lease["grew"] = False
                lease["grow_error"] = error.strerror
        if options.hold_up:
            hold_up(fds[0])
    print(json.dumps(reply), flush=True)
    if "error" in reply:
        return 1
    sys.stdin.read()
    if options.hold_up:
        print("nobody came" if fcntl.fcntl(fds[0], fcntl.F_GETLEASE) == fcntl.F_WRLCK else "somebody came")
    return 0


if __name__ == "__main__":
    sys.exit(main())
