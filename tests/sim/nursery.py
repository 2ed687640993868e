"""Real processes that hold leases, forked as fast as leases are asked for: a lease belongs to a process.

The test runs this module as one child. Each line of its input is a method and its parameters; a fork of it connects,
calls, answers with a line, and lives on with its connection and its memory until it is killed.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from enclave_cli.client import Client
from tests.sim.holder import answer

ROOT = Path(__file__).parents[2]


class Nursery:
    """The child, and those it forked."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.sim.nursery"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pids: set[int] = set()
        """Those that live, for all we know."""

    def call(self, path: str, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """Call from a process of its own. Return the answer with its `pid`; it lives on."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([path, method, parameters]) + "\n")
        self._process.stdin.flush()
        reply: dict[str, Any] = json.loads(self._process.stdout.readline())
        self.pids.add(reply["pid"])
        return reply

    def kill(self, pid: int) -> None:
        """Kill one of them."""
        if pid in self.pids:
            self.pids.discard(pid)
            os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill all, and end."""
        for pid in list(self.pids):
            self.kill(pid)
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def main() -> None:
    """Fork for each line."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them: the kernel does
    for line in sys.stdin:
        path, method, parameters = json.loads(line)
        if os.fork():
            continue
        reply = answer(Client(path), method, parameters)
        print(json.dumps(reply | {"pid": os.getpid()}), flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
