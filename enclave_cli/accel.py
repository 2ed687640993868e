"""What runs the enclave's code: the processor (KVM) where that works, else QEMU's emulation (TCG)."""

import fcntl
import mmap
import os
import select
import signal
import struct

from enclave_cli import failure, paths
from enclave_cli.failure import Failure

PROBE_SECONDS = 2.0

KVM_GET_API_VERSION, KVM_CREATE_VM, KVM_GET_VCPU_MMAP_SIZE = 0xAE00, 0xAE01, 0xAE04
KVM_CREATE_VCPU, KVM_SET_TSS_ADDR, KVM_RUN = 0xAE41, 0xAE47, 0xAE80
KVM_SET_USER_MEMORY_REGION = 0x4020AE46
KVM_API_VERSION = 12
KVM_EXIT_HLT = 5
EXIT_REASON_AT = 8
RESET_PAGE, RESET_AT = 0xFFFFF000, 0xFF0
"""Where a processor begins after reset: the page, and the place in it."""

TSS = 0xFFFBD000
HLT = 0xF4


def choose(wanted: str) -> str:
    """Return `kvm` or `tcg`; `auto` trusts KVM only if it runs code. Raises Failure."""
    if wanted == "tcg":
        return wanted
    trouble = "" if os.access(paths.KVM, os.R_OK | os.W_OK) else "it is not there, or not for this user"
    trouble = trouble or probe()
    if not trouble:
        return "kvm"
    if wanted == "kvm":
        raise Failure(
            failure.MACHINE_LACKS,
            f"cannot use KVM: {paths.KVM}: {trouble}; nothing was taken from the pool (use --accel tcg)",
        )
    return "tcg"


def probe(seconds: float = PROBE_SECONDS) -> str:
    """Run one instruction under KVM, in a process that is killed if it hangs. Return what is wrong, or nothing."""
    pid = os.fork()
    if not pid:
        try:
            os._exit(0 if _runs_code() else 1)
        except BaseException:
            os._exit(2)
    pidfd = os.pidfd_open(pid)
    try:
        in_time = select.select([pidfd], [], [], seconds)[0]
        if not in_time:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [], seconds)  # a process that the kernel does not let go is left to it
    finally:
        os.close(pidfd)
    status = os.waitpid(pid, os.WNOHANG)[1]
    if not in_time:
        return f"it ran no code within {seconds:g} s"
    return "" if status == 0 else "it cannot run code"


def _runs_code() -> bool:
    """Start a processor that finds `hlt` at its reset address, and see whether it halts. Only for a child."""
    import ctypes

    kvm = os.open(paths.KVM, os.O_RDWR | os.O_CLOEXEC)
    if fcntl.ioctl(kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION:
        return False
    vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
    page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    page[RESET_AT] = HLT
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    fcntl.ioctl(vm, KVM_SET_TSS_ADDR, TSS)
    fcntl.ioctl(vm, KVM_SET_USER_MEMORY_REGION, struct.pack("IIQQQ", 0, 0, RESET_PAGE, len(page), address))
    vcpu = fcntl.ioctl(vm, KVM_CREATE_VCPU, 0)
    run = mmap.mmap(vcpu, fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0))
    fcntl.ioctl(vcpu, KVM_RUN, 0)
    return bool(struct.unpack_from("I", run, EXIT_REASON_AT)[0] == KVM_EXIT_HLT)
