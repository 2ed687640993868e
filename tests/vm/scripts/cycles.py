#!/usr/bin/env python3
"""Takes leases and ends them, over and over, by many clients at once; fails if two ever had the same CPU or byte.

Usage: cycles.py CLIENTS CYCLES SEED MIB

Each client forks a process for each lease, which ends by itself, by its release, or is killed at some moment of its
life. Prints how many ended how, and how long a cycle took.
"""

import json
import mmap
import os
import random
import signal
import socket
import sys
import time

import holder

NAME = "io.ali-enclaves.Allocator"
BUSY = {f"{NAME}.{name}" for name in ("LeaseLimitReached", "InsufficientCpus", "InsufficientMemory", "PoolNotReady")}
PAGE = 2 << 20
PAUSE_SECONDS = 0.8
LONGEST_SECONDS = 6.0
"""When a client is killed at the latest: most have their lease by then, and some are waiting for it."""
WRONG = 4


def main(clients: int, cycles: int, seed: int, mib: int) -> None:
    """Run the clients and check what they wrote down."""
    log = os.open("cycles.log", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    began = time.monotonic()
    pids = []
    for number in range(clients):
        if not (pid := os.fork()):
            os._exit(client(log, number, cycles, random.Random(seed + number), mib))
        pids.append(pid)
    failed = [pid for pid in pids if os.waitpid(pid, 0)[1]]
    seconds = time.monotonic() - began
    if failed:
        sys.exit(f"{len(failed)} clients failed")
    with open("cycles.log", encoding="ascii") as lines:
        ends = check([json.loads(line) for line in lines])
    print(f"{sum(ends.values())} cycles, {seconds:.0f} s, {seconds / sum(ends.values()):.3f} s each: {ends}")


def client(log: int, number: int, cycles: int, dice: random.Random, mib: int) -> int:
    """Take so many leases, one after the other. Return 0 if each was as it must be."""
    for cycle in range(cycles):
        end, key = dice.choice(("exit", "release", "kill")), f"{number}.{cycle}"
        pause = dice.random() * LONGEST_SECONDS
        if not (child := os.fork()):
            try:
                hold(log, key, end, mib)
            except BaseException as error:
                print(f"{key}: {error!r}", file=sys.stderr, flush=True)
                os._exit(WRONG)
            os._exit(0)
        if end == "kill":
            time.sleep(pause)
            note(log, key, "end", how=end)
            os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status not in ({"exit": (0,), "kill": (-9,), "release": (-9, -15)}[end]):
            print(f"{key}: {end}: status {status}", file=sys.stderr, flush=True)
            return 1
    return 0


def hold(log: int, key: str, end: str, mib: int) -> None:
    """Take a lease as soon as there is room, check its memory, and end it."""
    while True:
        reply, fds = holder.acquire({"cpu_count": 2, "memory_mib": mib, "online": False, "name": f"c{key}"})
        if "error" not in reply:
            break
        if reply["error"] not in BUSY:
            raise SystemExit(str(reply))
        if reply["error"].endswith("PoolNotReady"):
            note(log, key, "refused", why=reply["parameters"]["reason"])
        time.sleep(PAUSE_SECONDS)
    lease = reply["parameters"]["lease"]
    note(log, key, "start", cpus=lease["cpus"], id=lease["id"])
    with mmap.mmap(fds[0], 0) as memory:
        if len(memory) != mib << 20 or any(memory[at : at + 4096].strip(b"\0") for at in range(0, len(memory), PAGE)):
            raise SystemExit("the memory is not clear, or of another size")
        for at in range(0, len(memory), PAGE):
            memory[at : at + 16] = lease["id"].encode()
        if end == "kill":
            signal.pause()
        if any(memory[at : at + 16] != lease["id"].encode() for at in range(0, len(memory), PAGE)):
            raise SystemExit("somebody else wrote into the memory")
    note(log, key, "end", how=end)
    if end == "release":
        release(lease["id"])
        signal.pause()


def release(lease: str) -> None:
    """Release a lease of ours, which ends this process."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(holder.SOCKET)
    call = {"method": f"{NAME}.Release", "parameters": {"lease": lease}}
    connection.sendall(json.dumps(call).encode() + b"\0")
    if reply := connection.recv(65536):
        raise SystemExit(f"still here to read {reply!r}")


def note(log: int, key: str, what: str, **more: object) -> None:
    """Write one line, whole, about a moment of a lease."""
    line = {"key": key, "what": what, "at": time.monotonic(), **more}
    os.write(log, json.dumps(line).encode() + b"\n")


def check(lines: list[dict]) -> dict[str, int]:
    """Fail if two leases had a CPU at the same time. Return how many leases ended how."""
    ended = {line["key"]: line for line in lines if line["what"] == "end"}
    held = [(line["at"], ended[line["key"]]["at"], line) for line in lines if line["what"] == "start"]
    for number, (start, end, one) in enumerate(held):
        for since, until, other in held[number + 1 :]:
            if set(one["cpus"]) & set(other["cpus"]) and start < until and since < end:
                sys.exit(f"two leases at once: {one} until {end}, {other} until {until}")
    if len({line["id"] for _, _, line in held}) != len(held):
        sys.exit("a lease id came twice")
    refused = [line["why"] for line in lines if line["what"] == "refused"]
    for why in sorted(set(refused)):
        print(f"refused {refused.count(why)} times: {why}")
    ends: dict[str, int] = {"never granted": len(ended) - len(held)}
    for line in ended.values():
        ends[line["how"]] = ends.get(line["how"], 0) + 1
    ends["kill"] = ends.get("kill", 0) - ends["never granted"]
    return ends


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
