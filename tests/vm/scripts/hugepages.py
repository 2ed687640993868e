"""The other programs of the machine, that use hugepages or would like to.

hold NODE COUNT [KIB]  take so many pages of a node, print "held", and keep them until killed
steal [NODE]           take every page there is, of one node or of all, print how many, and give them back
spin FILE [NODE]       take a page and give it back, over and over; append a line to FILE for each one
fragment NODE MIB      spread locked small pages over so much of a node's memory, print "held", and keep them
"""

import ctypes
import errno
import mmap
import os
import signal
import sys
import threading
import time

PAGE_KIB = 2048
MAP_HUGETLB = 0x40000
MAP_HUGE_SHIFT = 26
MPOL_BIND = 2
SET_MEMPOLICY = 238
MADV_NOHUGEPAGE = 15
MADV_POPULATE_WRITE = 23

libc = ctypes.CDLL(None, use_errno=True)


def bind(node):
    """Let this process allocate on one node or not at all."""
    mask = ctypes.c_ulong(1 << int(node))
    if libc.syscall(SET_MEMPOLICY, MPOL_BIND, ctypes.byref(mask), ctypes.c_ulong(65)):
        sys.exit(f"set_mempolicy: {os.strerror(ctypes.get_errno())}")


def stay_near(node):
    """Run this thread on the node, if it has a CPU: there Linux 6.1 makes surplus pages, whatever the policy is."""
    cpus = (int(name[3:]) for name in os.listdir(f"/sys/devices/system/node/node{node}") if name[3:].isdigit())
    if near := os.sched_getaffinity(0).intersection(cpus):
        os.sched_setaffinity(0, near)


def mapped(kib=PAGE_KIB):
    """Map one page; fails where not even its count can be had."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_HUGETLB | (kib * 1024).bit_length() - 1 << MAP_HUGE_SHIFT
    return mmap.mmap(-1, kib * 1024, flags)


def take(kib=PAGE_KIB):
    """Map one page and write to it. Where the node has none the kernel kills us with SIGBUS."""
    page = mapped(kib)
    page[0] = 1
    return page


def hold(node, count, kib=PAGE_KIB):
    """Take the pages in a thread, whose CPUs and memory policy end with it."""
    pages = []

    def take_all():
        stay_near(node)
        bind(node)
        pages.extend(take(int(kib)) for _ in range(int(count)))

    taker = threading.Thread(target=take_all)
    taker.start()
    taker.join()
    if len(pages) < int(count):
        sys.exit(1)
    print("held", flush=True)
    signal.pause()


def steal(node=None):
    """Take pages in a child, which may die of it by SIGBUS, and count the bytes it writes, one for each page."""
    report, write = os.pipe()
    if not os.fork():
        if node is not None:
            bind(node)
        pages = []
        try:
            while True:
                pages.append(take())
                os.write(write, b".")
        except OSError as error:
            os._exit(0 if error.errno == errno.ENOMEM else 1)
    os.close(write)
    taken = 0
    while data := os.read(report, 4096):
        taken += len(data)
    ending = os.waitstatus_to_exitcode(os.wait()[1])
    if ending not in (0, -signal.SIGBUS):
        sys.exit(f"the thief ended with {ending}, so what it took says nothing")
    print(taken)


def spin(path, node=None):
    if node is not None:
        bind(node)
    with open(path, "a", buffering=1) as log:
        print("spinning", file=log)
        while True:
            try:
                with mapped() as page:
                    page.madvise(MADV_POPULATE_WRITE)  # fails where writing would be answered with SIGBUS
                print("took a page", file=log)
            except OSError:
                time.sleep(0.0001)


def fragment(node, mib):
    """Touch the memory page by page, lock one page in 64, and free the others: no 2M of it is left in one piece."""
    bind(node)
    size = int(mib) << 20
    memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(MADV_NOHUGEPAGE)
    for offset in range(0, size, 4096):
        memory[offset] = 1
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for offset in range(0, size, 64 * 4096):
        if libc.mlock(ctypes.c_void_p(base + offset), ctypes.c_size_t(4096)):
            sys.exit(f"mlock: {os.strerror(ctypes.get_errno())}")
        memory.madvise(mmap.MADV_DONTNEED, offset + 4096, 63 * 4096)
    print("held", flush=True)
    signal.pause()


{"hold": hold, "steal": steal, "spin": spin, "fragment": fragment}[sys.argv[1]](*sys.argv[2:])
