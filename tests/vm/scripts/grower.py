#!/usr/bin/env python3
"""Takes a lease and tries for one page more than that, over and over, until its standard input ends.

Usage: grower.py [--outside] MIB

With --outside, a process that is no task of the lease keeps the memory and does this, after the holder has ended.
Prints the lease's id, and in the end how often there was a page more for a moment.
"""

import os
import select
import socket
import sys
import time

import holder

PAGE = 2 << 20


def main(mib: int, outside: bool) -> None:
    """Run the command line."""
    ours, theirs = socket.socketpair()
    if outside and (child := os.fork()):
        id, fds, _, _ = socket.recv_fds(ours, 64, 1)
        os.waitpid(child, 0)
        print(id.decode(), flush=True)
        grow(fds[0], 0)
        return
    reply, fds = holder.acquire({"cpu_count": 2, "memory_mib": mib, "online": False, "node": 1, "name": "grower"})
    id = reply["parameters"]["lease"]["id"]
    if outside:
        socket.send_fds(theirs, [id.encode()], fds)
        os._exit(0)
    print(id, flush=True)
    grow(fds[0], mib << 20)


def grow(file: int, size: int) -> None:
    """Ask for one page beyond a size until there is nothing more to read."""
    grown = 0
    while not select.select([0], [], [], 0)[0]:
        try:
            os.posix_fallocate(file, size, PAGE)
            grown += 1
        except OSError:
            time.sleep(0.0001)
    print(grown)


if __name__ == "__main__":
    main(int(sys.argv[-1]), "--outside" in sys.argv)
