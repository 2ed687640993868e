"""The service as an operator and a client of a walk see it: its unit, its socket, its ledger."""

import json
import socket
import subprocess
import time
from pathlib import Path

UNIT = "ali-enclaves-allocator.service"
LEDGER = Path("/run/ali-enclaves/ledger.json")
SOCKET = "/run/ali-enclaves/allocator.sock"
NAME = "io.ali-enclaves.Allocator"
SECONDS = 120.0
"""What anything may take on a busy, emulated machine. Only what fails waits for all of it."""


def run(*command: str) -> int:
    """Run a command and return its status; what it prints is of no interest, for the journal has it."""
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode


def systemctl(*arguments: str) -> int:
    """Run systemctl. Without a limit of how often the service may be started, which so many kills would reach."""
    if arguments[0] in ("start", "restart", "kill"):
        run("systemctl", "reset-failed", UNIT)
    return run("systemctl", *arguments)


def properties() -> dict[str, str]:
    """Return how systemd sees the service."""
    wanted = "ActiveState,SubState,MainPID,Job"
    shown = subprocess.run(
        ["systemctl", "show", "--property", wanted, UNIT], stdout=subprocess.PIPE, text=True, check=True
    )
    return dict(line.split("=", 1) for line in shown.stdout.splitlines())


def main_pid() -> int:
    """Return the pid of the service; 0 if it does not run."""
    return int(properties()["MainPID"])


def settled(former: int = 0) -> bool:
    """Wait until systemd has nothing more to do with the service. Return whether it runs, with another pid then."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        now = properties()
        if now.get("Job", "0") in ("", "0"):
            if (now["ActiveState"], now["SubState"]) == ("active", "running") and int(now["MainPID"]) not in (
                0,
                former,
            ):
                return True
            if now["ActiveState"] in ("failed", "inactive"):
                systemctl("reset-failed", UNIT)
                return False
        time.sleep(0.1)
    raise AssertionError(f"the service does not come to rest: {now}")


def send(method: str, parameters: dict | None = None) -> socket.socket:
    """Call a method, and return the connection that the answer comes on."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(SECONDS)
    connection.connect(SOCKET)
    connection.sendall(json.dumps({"method": f"{NAME}.{method}", "parameters": parameters or {}}).encode() + b"\0")
    return connection


def call(method: str, parameters: dict | None = None) -> dict:
    """Call a method and return the reply."""
    with send(method, parameters) as connection:
        reply = b""
        while not reply.endswith(b"\0"):
            part = connection.recv(1 << 16)
            if not part:
                raise AssertionError(f"{method}: the service closed the connection after {reply!r}")
            reply += part
    return json.loads(reply[:-1])


def pool() -> dict:
    """Return what GetPool answers."""
    return call("GetPool")["parameters"]["pool"]


def ledger() -> dict:
    """Return the pool that the ledger records; an empty one where there is none."""
    if not LEDGER.exists():
        return {"leases": [], "banks": []}
    return json.loads(LEDGER.read_text())["pool"]


def parsed(text: str) -> frozenset[int]:
    """Return the CPUs of a list such as 2-3,6."""
    ranges = [part.partition("-") for part in text.strip().split(",") if part]
    return frozenset(cpu for first, _, last in ranges for cpu in range(int(first), int(last or first) + 1))
