#!/usr/lib/ali-enclaves/bin/python3 -I
"""Times the sample enclave until its first byte over vsock, with `enclave-cli` and by hand: first_byte.py WORK PAIRS.

By hand: hugepages of the same node, the same CPUs, the kernel and the ramdisk already taken out of the image, and the
same command of QEMU, which starts at once. Ours: from a pool of just its size, and from the one of the shipped file.
Each goes first in its turn. Prints one line of JSON, in seconds, for each turn.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from enclave_cli import eif, qemu, vsock
from enclave_cli.client import Client

IMAGE = "hello-small.eif"
UNIT = "ali-enclaves-allocator.service"
FILE = Path("/etc/ali-enclaves/allocator.yaml")
MEMORY_MIB, SHIPPED_MIB = 192, 1024
RUN = ("run-enclave", "--eif-path", IMAGE, "--cpu-count", "2", "--memory", str(MEMORY_MIB), "--accel", "tcg")
PHASES = {"reading": "begin", "taking": "read", "starting": "lease", "waiting": "qemu"}
"""By the word that `run-enclave` begins a line of its progress with, what has just been done."""


def main() -> None:
    """Boot all, again and again, after one of each that does not count."""
    turns = int(sys.argv[2])
    cpus, node = free_cpus()
    works: list[Callable[[], dict[str, float]]] = [
        lambda: ours("whole", MEMORY_MIB),
        lambda: {"theirs": by_hand(cpus, node)},
        lambda: ours("part", SHIPPED_MIB),
    ]
    for number in range(turns + 1):
        times = {name: took for work in works for name, took in work().items()}
        works.append(works.pop(0))
        if number:
            print(json.dumps(times), flush=True)


def ours(name: str, pool_mib: int) -> dict[str, float]:
    """Run it with the launcher, which returns with the first byte, from a pool of so much memory."""
    FILE.write_text(f"memory_mib: {pool_mib}\ncpu_count: 2\n")
    subprocess.run(["systemctl", "start", UNIT], check=True)
    begin = last = time.monotonic()
    phases = {}
    with subprocess.Popen(["enclave-cli", *RUN], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as launch:
        assert launch.stdout and launch.stderr
        told = ""
        for line in launch.stderr:
            told, now = told + line, time.monotonic()
            if phase := PHASES.get(line.split()[1]):
                phases[f"{name}_{phase}"], last = now - last, now
        enclave = json.loads(launch.stdout.read() or "{}")
    took = time.monotonic() - begin
    if launch.returncode:
        raise SystemExit(f"first_byte: run-enclave failed: {told}")
    end = ["enclave-cli", "terminate-enclave", "--enclave-id", enclave["EnclaveID"]]
    subprocess.run(end, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["systemctl", "stop", UNIT], check=True)
    return {name: took, **phases}


def free_cpus() -> tuple[list[int], int]:
    """Start and stop the service; return the CPUs of its pool, which are the host's again, and their node."""
    subprocess.run(["systemctl", "start", UNIT], check=True)
    with Client("/run/ali-enclaves/allocator.sock") as client:
        pool = client.call("io.ali-enclaves.Allocator.GetPool")["pool"]
    subprocess.run(["systemctl", "stop", UNIT], check=True)
    [node] = [node["node"] for node in pool["nodes"] if any(core["use"] == "pool" for core in node["cores"])]
    return pool["cpus"], node


def by_hand(cpus: list[int], node: int) -> float:
    """Run the same QEMU on these CPUs, and return the seconds until its first byte."""
    pages = Path(f"/sys/devices/system/node/node{node}/hugepages/hugepages-2048kB/nr_hugepages")
    pages.write_text(str(MEMORY_MIB // 2))
    image = eif.read(IMAGE, keep=True)
    memory = os.memfd_create("memory", os.MFD_HUGETLB | os.MFD_HUGE_2MB)
    os.truncate(memory, MEMORY_MIB << 20)
    vhost, cid = vsock.claim(0)
    fds = {"memory": memory, "vsock": vhost, "kernel": image.kernel or 0}
    fds |= {"initrd": image.initrd} if image.initrd else {}
    lease = {"id": "hand", "cpus": cpus, "memory_mib": MEMORY_MIB}
    command = qemu.command("qemu-system-x86_64", lease, image.cmdline, "tcg", cid, fds, "monitor.sock")
    command.remove("-S")
    with vsock.listen(cid) as listener:
        begin = time.monotonic()
        where = ["taskset", "--cpu-list", ",".join(map(str, cpus))]
        with subprocess.Popen([*where, *command], pass_fds=list(fds.values())) as vm:
            listener.settimeout(600)
            assert vsock.heard(listener, cid), "the first byte is not the heartbeat"
            took = time.monotonic() - begin
            vm.kill()
    for fd in (memory, vhost):
        os.close(fd)
    eif.close(image)
    pages.write_text("0")
    return took


if __name__ == "__main__":
    main()
