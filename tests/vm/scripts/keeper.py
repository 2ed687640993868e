#!/usr/bin/env python3
"""Keeps something of a lease beyond its end, in a process that is none of its tasks, until its standard input ends.

Usage: keeper.py WAY MIB

The ways: `place`, a descriptor that is a place only (O_PATH), by which the file is opened anew; `pages`, a page in a
pipe; `private`, a page that is free for a moment, for a mapping that no file shows. Prints what it is told at once,
and when the lease has ended what it got.
"""

import ctypes
import mmap
import os
import socket
import sys
import time

import holder

PAGE = 2 << 20


class Vector(ctypes.Structure):
    """A struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def main(way: str, mib: int) -> None:
    """Run the command line."""
    ours, theirs = socket.socketpair()
    if not os.fork():
        _, fds = holder.acquire({"cpu_count": 2, "memory_mib": mib, "online": False, "node": 1, "name": "kept"})
        socket.send_fds(theirs, [b"x"], fds)
        theirs.recv(1)
        os._exit(0)
    _, (memory,), _, _ = socket.recv_fds(ours, 1, 1)
    keep = {"place": place, "pages": pages, "private": private}[way](memory)
    next(keep)
    ours.send(b"x")
    os.wait()
    print(next(keep), flush=True)
    sys.stdin.read()


def place(memory: int):
    """Keep the place, and open the file anew when it is nobody's lease: until then it may."""
    where = f"/proc/self/fd/{os.open(f'/proc/self/fd/{memory}', os.O_PATH)}"
    os.close(memory)
    yield
    while True:
        try:
            os.close(os.open(where, os.O_RDWR | os.O_NONBLOCK))
        except OSError as error:
            yield os.strerror(error.errno)
            return


def pages(memory: int):
    """Keep a page in a pipe, and no file."""
    libc, pipe = ctypes.CDLL(None, use_errno=True), os.pipe()
    with mmap.mmap(memory, PAGE) as mapped:
        start = ctypes.c_char.from_buffer(mapped)
        vector = Vector(ctypes.addressof(start), 4096)
        mapped[0] = 1
        if libc.vmsplice(pipe[1], ctypes.byref(vector), 1, 0) != 4096:
            raise OSError(ctypes.get_errno(), "vmsplice")
        del start
    os.close(memory)
    yield
    yield "a page"


def private(memory: int):
    """Map pages that are free for a moment, for 2 seconds after the first, or in vain for 20.

    Not by Python's mmap, which asks for the file's size first.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    yield
    got, end = 0, time.monotonic() + 20
    while time.monotonic() < end:
        protection, length = mmap.PROT_READ | mmap.PROT_WRITE, ctypes.c_size_t(PAGE)
        if libc.mmap(None, length, protection, mmap.MAP_PRIVATE, memory, ctypes.c_long(0)) != ctypes.c_void_p(-1).value:
            end = end if got else time.monotonic() + 2
            got += 1
    yield str(got)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
