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
KVM_SET_REGS, KVM_GET_SREGS, KVM_SET_SREGS = 0x4090AE82, 0x8138AE83, 0x4138AE84
KVM_API_VERSION = 12
KVM_EXIT_HLT = 5
EXIT_REASON_AT = 8

CODE = bytes.fromhex("b900093d00 49 75fd f4")
"""Counts down from 4,000,000, then halts: an instant for a processor, ten seconds where KVM emulates every step."""

CODE_AT = 0x100000
TSS_AT = 0x1000000
"""Where some processors of Intel keep three pages to themselves, out of the way."""

SEGMENT = struct.Struct("QIHBBBBBBBBBB")
SREGS_BYTES, CR0_AT = 312, 224
PROTECTED = 0x11


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
    """Run a few instructions under KVM, in a process that is killed if it hangs. Return what is wrong, or nothing."""
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
    """Run a loop in protected mode, and see whether its end is reached. Only for a child: it may hang.

    Real mode would prove nothing: KVM emulates it where the processor cannot run it.
    """
    import ctypes

    kvm = os.open(paths.KVM, os.O_RDWR | os.O_CLOEXEC)
    if fcntl.ioctl(kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION:
        return False
    vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
    memory = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    memory.write(CODE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    fcntl.ioctl(vm, KVM_SET_TSS_ADDR, TSS_AT)
    fcntl.ioctl(vm, KVM_SET_USER_MEMORY_REGION, struct.pack("IIQQQ", 0, 0, CODE_AT, len(memory), address))
    vcpu = fcntl.ioctl(vm, KVM_CREATE_VCPU, 0)
    run = mmap.mmap(vcpu, fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0))
    sregs = bytearray(SREGS_BYTES)
    fcntl.ioctl(vcpu, KVM_GET_SREGS, sregs)
    code, data = (SEGMENT.pack(0, 2**32 - 1, 8 * n, kind, 1, 0, 1, 1, 0, 1, 0, 0, 0) for n, kind in ((1, 11), (2, 3)))
    sregs[: 6 * SEGMENT.size] = code + 5 * data  # flat: all of memory from 0, 32 bits
    struct.pack_into("Q", sregs, CR0_AT, PROTECTED)
    fcntl.ioctl(vcpu, KVM_SET_SREGS, bytes(sregs))
    fcntl.ioctl(vcpu, KVM_SET_REGS, struct.pack("18Q", *[0] * 16, CODE_AT, 2))
    fcntl.ioctl(vcpu, KVM_RUN, 0)
    return bool(struct.unpack_from("I", run, EXIT_REASON_AT)[0] == KVM_EXIT_HLT)
