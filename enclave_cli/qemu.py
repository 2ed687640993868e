"""QEMU: the command that makes it an enclave VM, and its monitor (QMP)."""

import json
import os
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
MACHINE = "q35,memory-backend=memory,dump-guest-core=off,usb=off,vmport=off,smm=off,sata=off,smbus=off,hpet=off"
ACCELERATION = {"kvm": ("kvm", "host"), "tcg": ("tcg,thread=multi", "max")}


def command(
    qemu: str,
    lease: "dict[str, Any]",
    cmdline: str,
    accel: str,
    cid: int,
    fds: dict[str, int],
    monitor: str,
) -> list[str]:
    """Return the command of an enclave VM: CPUs, memory and vsock, nothing else.

    `fds` are the descriptors it inherits: `memory`, `vsock`, `kernel` and, where there are any, `initrd` and
    `console`. It starts stopped: its threads have their CPUs before its first instruction.
    """
    accelerator, cpu = ACCELERATION[accel]
    size = lease["memory_mib"]
    arguments = [qemu, "-name", f"evm-{lease['id']},debug-threads=on"]
    arguments += ["-nodefaults", "-no-user-config", "-no-reboot", "-sandbox", SANDBOX, "-S"]
    arguments += ["-display", "none", "-vga", "none", "-nic", "none", "-monitor", "none", "-parallel", "none"]
    arguments += ["-machine", MACHINE, "-accel", accelerator, "-cpu", cpu, "-smp", str(len(lease["cpus"]))]
    memory = f"memory-backend-file,id=memory,mem-path=/proc/self/fd/{fds['memory']},share=on,size={size}M"
    arguments += ["-m", f"{size}M", "-object", memory]
    arguments += ["-device", f"vhost-vsock-pci,guest-cid={cid},vhostfd={fds['vsock']}"]
    arguments += ["-kernel", f"/proc/self/fd/{fds['kernel']}", "-append", cmdline]
    if "initrd" in fds:
        arguments += ["-initrd", f"/proc/self/fd/{fds['initrd']}"]
    if "console" in fds:
        arguments += ["-chardev", f"socket,id=console,fd={fds['console']}", "-serial", "chardev:console"]
    else:
        arguments += ["-serial", "none"]
    return [*arguments, "-qmp", f"unix:{monitor},server=on,wait=off"]


class Monitor:
    """A connection to QEMU's monitor at `path`. All methods may raise OSError: it is gone, or answers nonsense."""

    def __init__(self, path: str, timeout: float) -> None:
        self.timeout = timeout
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.sock.settimeout(timeout)
        self._received = b""
        try:
            self.sock.connect(path)
            self._message()
            self.execute("qmp_capabilities")
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection; once more does nothing."""
        self.sock.close()

    def execute(self, name: str) -> "Any":
        """Execute a command without arguments and return its answer; events are passed over."""
        self.sock.sendall(json.dumps({"execute": name}).encode() + b"\n")
        while True:
            message = self._message()
            if "error" in message:
                raise OSError(f"QEMU refused {name}: {message['error'].get('desc')}")
            if "return" in message:
                return message["return"]

    def vcpu_threads(self) -> list[int]:
        """Return the thread ids of the virtual CPUs, in their order."""
        cpus = sorted(self.execute("query-cpus-fast"), key=lambda cpu: int(cpu["cpu-index"]))
        return [int(cpu["thread-id"]) for cpu in cpus]

    def _message(self) -> "dict[str, Any]":
        while b"\n" not in self._received:
            try:
                data = self.sock.recv(65536)
            except TimeoutError:
                raise TimeoutError(f"waited {self.timeout:g} s for an answer of QEMU's monitor") from None
            if not data:
                raise ConnectionResetError("QEMU closed its monitor")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        try:
            return dict(json.loads(line))
        except (ValueError, TypeError):
            raise OSError("QEMU's monitor answered something that is not QMP") from None


def threads(pid: int) -> list[int]:
    """Return the ids of all threads of a process."""
    return [int(name) for name in os.listdir(f"/proc/{pid}/task")]


def pin(pid: int, vcpus: list[int], cpus: list[int]) -> None:
    """Give each virtual CPU one CPU of the lease, and spread the other threads over them. Raises OSError.

    Before it, every thread may run on all of the lease's CPUs, and is where the kernel put it.
    """
    for thread, cpu in zip(vcpus, cpus, strict=True):
        os.sched_setaffinity(thread, {cpu})
    for number, thread in enumerate(sorted(set(threads(pid)) - set(vcpus))):
        try:
            os.sched_setaffinity(thread, {cpus[number % len(cpus)]})
        except ProcessLookupError:
            continue


def nanoseconds(pid: int, thread: int) -> int:
    """Return the CPU time that a thread has used. Raises OSError."""
    with open(f"/proc/{pid}/task/{thread}/schedstat", encoding="ascii") as file:
        return int(file.read().split()[0])
