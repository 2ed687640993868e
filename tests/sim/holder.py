"""A process that holds leases: run by the tests as a child, because a lease belongs to a process.

`serve` answers each line of its input, a method and its parameters, with a line. `cycle` forks a process for each
lease, which ends by itself, by its release, or by SIGKILL at some moment of its life.
"""

import json
import os
import random
import signal
import sys
import time
from typing import Any

from enclave_cli.client import CallError, Client

NAME = "io.ali-enclaves.Allocator"
REFUSALS = {f"{NAME}.{name}" for name in ("LeaseLimitReached", "InsufficientCpus", "InsufficientMemory")}
WRONG = 4


def main(mode: str, path: str, options: str) -> None:
    """Run as `serve` or `cycle`."""
    given: dict[str, Any] = json.loads(options)
    if mode == "cycle":
        print(json.dumps(cycle(path, **given)))
        return
    if "uid" in given:
        os.setgroups(given["groups"])
        os.setgid(given["gid"])
        os.setuid(given["uid"])
    client = Client(path)
    for line in sys.stdin:
        method, parameters, forked = json.loads(line)
        if forked and (child := os.fork()):
            os.waitpid(child, 0)
            continue
        print(json.dumps(answer(client, method, parameters)), flush=True)
        if forked:
            os._exit(0)


def answer(client: Client, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Call, and tell the size and owner of what came with the reply."""
    try:
        reply, fds = client.call_for_fds(f"{NAME}.{method}", parameters)
    except CallError as error:
        return {"error": error.name.removeprefix(f"{NAME}."), **error.parameters}
    stats = [os.fstat(fd) for fd in fds]
    return reply | {"fds": [[stat.st_size, stat.st_uid, stat.st_gid, stat.st_mode & 0o777] for stat in stats]}


def cycle(path: str, cycles: int, seed: int) -> dict[str, int]:
    """Take so many leases, one after the other. Return how each ended."""
    dice = random.Random(seed)
    ends: dict[str, int] = {}
    for _ in range(cycles):
        end = dice.choice(("exit", "release", "kill"))
        pause = dice.random() * 0.1
        if not (child := os.fork()):
            os._exit(hold(path, end))
        if end == "kill":
            time.sleep(pause)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        name = {WRONG: "wrong", 0: "exited", -signal.SIGKILL: "killed"}.get(code, f"status {code}")
        ends[name] = ends.get(name, 0) + 1
    return ends


def hold(path: str, end: str) -> int:
    """Take a lease, as soon as there is room for it, and end it. Return the exit status."""
    try:
        client = Client(path)
        reply, fds = acquire(client)
        if [os.fstat(fd).st_size for fd in fds] != [16 << 20]:
            return WRONG
        if end == "release":
            client.call(f"{NAME}.Release", {"lease": reply["lease"]["id"]})
        if end == "kill":
            signal.pause()
    except (OSError, CallError):
        return WRONG
    return 0


def acquire(client: Client) -> tuple[dict[str, Any], list[int]]:
    """Take a lease, and try again while the pool is lent to others."""
    while True:
        try:
            return client.call_for_fds(f"{NAME}.Acquire", {"cpu_count": 2, "memory_mib": 16, "online": True})
        except CallError as error:
            if error.name not in REFUSALS:
                raise
        time.sleep(0.005)


if __name__ == "__main__":
    main(*sys.argv[1:])
