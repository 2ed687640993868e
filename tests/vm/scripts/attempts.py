#!/usr/bin/env python3
"""Tries what a user should not be able to do to the service, and to another user's lease; prints how each ended.

Usage: attempts.py SERVICE_PID HOLDER_PID LEASE_ID CPU…; the CPUs are those that are lent.
"""

import ctypes
import errno
import glob
import json
import os
import signal
import socket
import sys
from collections.abc import Callable

RUN = "/run/ali-enclaves"
SOCKET = f"{RUN}/allocator.sock"
PTRACE_ATTACH = 16

libc = ctypes.CDLL(None, use_errno=True)


def attach(pid: int) -> None:
    """Attach to a process as a debugger does."""
    if libc.ptrace(PTRACE_ATTACH, pid, None, None):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def call(method: str, parameters: dict) -> None:
    """Call the service; its refusal is an error like any other."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(SOCKET)
        message = {"method": f"io.ali-enclaves.Allocator.{method}", "parameters": parameters}
        client.sendall(json.dumps(message).encode() + b"\0")
        reply = json.loads(client.recv(1 << 16).rstrip(b"\0"))
    if "error" in reply:
        raise SystemExit(reply["error"].rpartition(".")[2])


def write(path: str, text: str) -> None:
    """Write to a file that is there."""
    with open(path, "r+", encoding="ascii") as file:
        file.write(text)


def bind_beside() -> None:
    """Listen where the service does."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(SOCKET)


def attempts(service: int, holder: int, lease: str, cpus: list[int]) -> dict[str, Callable[[], object]]:
    """Return what is tried, by name."""
    scope = f"/sys/fs/cgroup/enclaves.slice/evm-{lease}.scope"
    return {
        "end the service": lambda: os.kill(service, signal.SIGTERM),
        "end the holder": lambda: os.kill(holder, signal.SIGKILL),
        "stop the holder": lambda: os.kill(holder, signal.SIGSTOP),
        "trace the service": lambda: attach(service),
        "trace the holder": lambda: attach(holder),
        "read the holder's memory": lambda: open(f"/proc/{holder}/mem", "rb"),
        "reach the holder's file through /proc": lambda: os.listdir(f"/proc/{holder}/fd"),
        "open the lease's file": lambda: open(f"{RUN}/banks/bank0/lease-{lease}", "rb"),
        "list the bank": lambda: os.listdir(f"{RUN}/banks/bank0"),
        "keep the bank": lambda: os.open(f"{RUN}/banks/bank0", os.O_PATH),
        "remove the socket": lambda: os.unlink(SOCKET),
        "listen in its place": bind_beside,
        "link into the directory": lambda: os.symlink("/etc/passwd", f"{RUN}/ledger.new"),
        "write the ledger": lambda: write(f"{RUN}/ledger.json", "{}"),
        "write the configuration": lambda: write("/etc/ali-enclaves/allocator.yaml", "{}"),
        "remove an enclave's directory": lambda: os.rmdir(f"{RUN}/evm/root"),
        "enter the scope": lambda: write(f"{scope}/cgroup.procs", str(os.getpid())),
        "open the partition": lambda: write("/sys/fs/cgroup/enclaves.slice/cpuset.cpus.partition", "member"),
        "run on the lent CPUs": lambda: os.sched_setaffinity(0, set(cpus)),
        "switch a CPU": lambda: write(f"/sys/devices/system/cpu/cpu{cpus[0]}/online", "0"),
        "release the lease": lambda: call("Release", {"lease": lease}),
        "reload": lambda: call("Reload", {}),
    }


def main() -> None:
    """Try all, and tell."""
    service, holder, lease, *cpus = sys.argv[1:]
    for name, attempt in attempts(int(service), int(holder), lease, list(map(int, cpus))).items():
        try:
            attempt()
        except OSError as error:
            print(f"{name}: {errno.errorcode[error.errno or 0]}")
        except SystemExit as refused:
            print(f"{name}: {refused}")
        else:
            print(f"{name}: DONE")
    print(f"banks seen: {len(glob.glob(f'{RUN}/banks/bank0/*'))}")


if __name__ == "__main__":
    main()
