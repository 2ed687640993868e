#!/usr/lib/ali-enclaves/bin/python3 -I
"""Measures in a guest, and prints one line of JSON for each pair: measure.py WORK PAIRS [key=value…].

Seconds, unless the key says what. The host's side makes ratios of them. Beside it lie `bare` (bare.c), and what else a
work needs. The memory is touched first: a first touch costs seconds that belong to nobody.
"""

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from ali_enclaves_allocator import line
from ali_enclaves_allocator.change.ledger import Ledger
from ali_enclaves_allocator.kernel import systemd
from ali_enclaves_allocator.kernel.doors import Kernel
from ali_enclaves_allocator.kernel.linux import boot_id, linux_kernel
from enclave_cli.client import Client

UNIT = "ali-enclaves-allocator.service"
YAML = Path("/etc/ali-enclaves/allocator.yaml")
RUN = Path("/run/ali-enclaves")
SOCKET = str(RUN / "allocator.sock")
NAME = "io.ali-enclaves.Allocator"
PEER = "nitro-enclaves-allocator"
PEER_YAML = Path("/etc/nitro_enclaves/allocator.yaml")
DRIVER = Path("/sys/module/nitro_enclaves/parameters/ne_cpus")

Times = dict[str, float]
IDLE_S = 120


def run(*command: str) -> str:
    """Run a command, which must succeed."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that some work takes."""
    begin = time.monotonic()
    work()
    return time.monotonic() - begin


def systemctl(verb: str, unit: str = UNIT) -> float:
    """Return the seconds until systemd has done it."""
    return timed(lambda: run("systemctl", verb, unit))


def bare(*arguments: object) -> list[float]:
    """Run the bare sequence."""
    return [float(word) for word in run("./bare", *map(str, arguments)).split()]


def the_pool() -> tuple[int, int, list[int]]:
    """Return the node, the pages and the CPUs of the pool that the file asks for, of a service that runs."""
    with Client(SOCKET) as client:
        pool = client.call(f"{NAME}.GetPool")["pool"]
    [node] = [node for node in pool["nodes"] if any(size["granted"] for size in node["hugepages"])]
    return node["node"], sum(size["granted"] for size in node["hugepages"]), pool["cpus"]


def bare_pool(pool: tuple[int, int, list[int]]) -> Times:
    """Make the same pool by the bare sequence, and undo it."""
    node, pages, cpus = pool
    steps = ("pages", "hold", "offline", "online", "drop", "give_back")
    times = dict(zip(steps, bare("pool", node, pages, *cpus), strict=True))
    return {
        "bare_settings": times["pages"] + times["offline"],
        "bare_hold": times["hold"],
        "bare_undo": times["online"] + times["drop"] + times["give_back"],
        "bare set_pages": times["pages"] + times["give_back"],
        "bare set_online": times["offline"] + times["online"],
        "bare banks": times["hold"] + times["drop"],
    }


def start(memory_mib: int, cpu_count: int, peer: bool) -> Iterator[Times]:
    """Time `systemctl start` to active, ours and the peer's, and the bare sequence."""
    YAML.write_text(f"memory_mib: {memory_mib}\ncpu_count: {cpu_count}\n")
    if peer:
        _set_up_peer(memory_mib, cpu_count)
    ours_first = True
    while True:
        times: Times = {}
        for ours in (ours_first, not ours_first):
            if ours:
                times["ours"] = systemctl("start")
                pool = the_pool()
                systemctl("stop")
            elif peer:
                times["theirs"] = systemctl("start", PEER)
                _undo_peer()
        yield times | bare_pool(pool)
        ours_first = not ours_first


def _set_up_peer(memory_mib: int, cpu_count: int) -> None:
    """Install the peer's program as it is, with a unit such as its own."""
    run("dpkg", "--install", *(str(package) for package in Path().glob("*.deb") if "enclave" not in package.name))
    run("modprobe", "nitro_enclaves")
    Path("/usr/bin", PEER).write_bytes(Path(PEER).read_bytes())
    Path("/usr/bin", PEER).chmod(0o755)
    PEER_YAML.parent.mkdir(exist_ok=True)
    PEER_YAML.write_text(f"---\nmemory_mib: {memory_mib}\ncpu_count: {cpu_count}\n")
    service = f"[Service]\nType=oneshot\nExecStart=/usr/bin/{PEER}\nRemainAfterExit=true\n"
    Path(f"/etc/systemd/system/{PEER}.service").write_text(service)
    run("systemctl", "daemon-reload")


def _undo_peer() -> None:
    """Give back what the peer took, which it does not do by itself."""
    if not DRIVER.read_text().strip():
        raise SystemExit(f"measure: the peer took no CPUs:\n{run('journalctl', '--unit', PEER, '--output', 'cat')}")
    systemctl("stop", PEER)
    with suppress(OSError):  # it gives up its CPUs, and then refuses the empty list
        DRIVER.write_text("\n")
    for file in Path("/sys/devices/system/node").glob("node*/hugepages/*/nr_hugepages"):
        file.write_text("0")


def profile() -> Iterator[Times]:
    """Time the parts of a start that are done before the first kernel setting, each in a process of its own."""
    python = ("/usr/lib/ali-enclaves/bin/python3", "-Ic")
    imports = "import asyncio; from ali_enclaves_allocator import cli, journal, serve"
    parts = {
        "a bare interpreter": (*python, "pass"),
        "asyncio": (*python, "import asyncio"),
        "asyncio and pydantic": (*python, "import asyncio, pydantic.main"),
        "all that the service imports": (*python, imports),
        "the same without looking for garbage": (*python, f"import gc; gc.disable(); {imports}"),
        "a check of the file against the machine": ("ali-enclaves-allocator", "check"),
    }
    while True:
        yield {name: timed(partial(run, *command)) for name, command in parts.items()}


def restart() -> Iterator[Times]:
    """Time a restart without a change against a stop and a start of the same."""
    systemctl("start")
    while True:
        ours = systemctl("restart")
        yield {"ours": ours, "theirs": systemctl("stop") + systemctl("start")}


class Clock:
    """Adds up what the functions take that it is laid on."""

    def __init__(self) -> None:
        self.spent = 0.0

    def lay_on(self, owner: object, *names: str) -> None:
        """Time these functions of an object or a module."""
        for name in names:
            setattr(owner, name, self._timed(getattr(owner, name)))

    def _timed(self, function: Callable[..., object]) -> Callable[..., object]:
        def timed_too(*arguments: object) -> object:
            begin = time.monotonic()
            try:
                return function(*arguments)
            finally:
                self.spent += time.monotonic() - begin

        return timed_too


def work() -> Iterator[Times]:
    """Time what the allocator has the kernel do, in a process that is up, against the bare sequence."""
    systemctl("start")
    pool = the_pool()
    systemctl("stop")
    RUN.mkdir(exist_ok=True)
    kernel = linux_kernel(RUN)
    clocks = {name: Clock() for name in ("set_pages", "set_online", "banks", "systemd")}
    clocks["set_pages"].lay_on(kernel.sysfs, "set_pages", "compact")
    clocks["set_online"].lay_on(kernel.sysfs, "set_online")
    clocks["banks"].lay_on(kernel.banks, "mount", "settle", "unmount")
    clocks["systemd"].lay_on(systemd, "start_transient", "stop")
    while True:
        for clock in clocks.values():
            clock.spent = 0.0
        whole = timed(partial(_apply_and_undo, kernel))
        times = {name: clock.spent for name, clock in clocks.items()}
        kernel_s = times["set_pages"] + times["set_online"] + times["banks"]
        yield times | {"kernel": kernel_s, "whole": whole} | bare_pool(pool)


def _apply_and_undo(kernel: Kernel) -> None:
    """Bring the file into force, and give everything back."""
    ledger = Ledger(RUN, boot_id())
    ledger.open()
    line.bring_into_force(YAML, kernel, ledger)
    line.give_back(kernel, ledger)
    ledger.close()


def lease() -> Iterator[Times]:
    """Time Acquire and Release of all the memory and of a quarter of it, by a child, against bare fallocate."""
    systemctl("start")
    node, pages, cpus = the_pool()
    while True:
        times = {}
        for name, part in (("whole", pages), ("quarter", pages // 4)):
            times[f"{name}_acquire"], times[f"{name}_release"] = _lend(len(cpus), 2 * part)
            times[f"{name}_clear"] = timed(_until_clear)
        systemctl("stop")
        for name, part in (("whole", pages), ("quarter", pages // 4)):
            [times[f"{name}_bare"]] = bare("fallocate", node, pages, part)
        times["scope"] = timed(_start_and_stop_scope)
        systemctl("start")
        yield times


def _lend(cpu_count: int, memory_mib: int) -> tuple[float, float]:
    """Let a child take a lease, and end it. Return the seconds of Acquire and of Release."""
    read, write = os.pipe()
    if not (child := os.fork()):
        try:
            _hold(write, {"cpu_count": cpu_count, "memory_mib": memory_mib, "online": False})
        except Exception:
            traceback.print_exc()
        os._exit(1)
    os.close(write)
    told = os.read(read, 4096)
    os.close(read)
    if not told:
        raise SystemExit("measure: the lease was refused, as is told above")
    took, id = json.loads(told)
    with Client(SOCKET, timeout=None) as client:
        ended = timed(lambda: client.call(f"{NAME}.Release", {"lease": id}))
    os.waitpid(child, 0)
    return took, ended


def _hold(write: int, asked: dict[str, object]) -> None:
    """Take a lease, tell how long that took and its id, and hold it until the end of it ends this process."""
    with Client(SOCKET, timeout=None) as client:
        begin = time.monotonic()
        reply, _ = client.call_for_fds(f"{NAME}.Acquire", asked)
        os.write(write, json.dumps([time.monotonic() - begin, reply["lease"]["id"]]).encode())
        signal.pause()


def _start_and_stop_scope() -> None:
    """Have systemd put a process into a scope, and end that, by the calls that a lease takes."""
    with subprocess.Popen(["sleep", "infinity"]) as process:
        systemd.start_transient("bench.scope", systemd.numbers("PIDs", [process.pid]))
        systemd.stop("bench.scope")


def _until_clear() -> None:
    """Wait until the memory of ended leases is clear and held again."""
    while list(RUN.glob("banks/bank*/lease-*")):
        time.sleep(0.01)


def idle() -> Iterator[Times]:
    """Count how often a daemon that has nothing to do wakes up, and what memory it has."""
    systemctl("start")
    pid = run("systemctl", "show", "--property", "MainPID", "--value", UNIT).strip()
    time.sleep(20)
    while True:
        before = _switches(pid)
        time.sleep(IDLE_S)
        yield {"seconds": IDLE_S, "switches": _switches(pid) - before, "rss_kib": _status(pid, "VmRSS")}


def _switches(pid: str) -> int:
    """Return the voluntary context switches of all threads."""
    return sum(_status(f"{pid}/task/{task}", "voluntary_ctxt_switches") for task in os.listdir(f"/proc/{pid}/task"))


def _status(pid: str, name: str) -> int:
    """Return a number of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def available_mib() -> int:
    """Return how much memory there is to touch."""
    meminfo = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in meminfo if line.startswith("MemAvailable:")) // 1024


def main() -> None:
    """Run the command line."""
    name, pairs, *words = sys.argv[1:]
    keys = {key: int(value) for key, _, value in (word.partition("=") for word in words)}
    works: dict[str, Callable[..., Iterator[Times]]] = {
        "start": start,
        "profile": profile,
        "restart": restart,
        "work": work,
        "lease": lease,
        "idle": idle,
    }
    run("./bare", "touch", str(available_mib() - 256))
    times = works[name](**keys)
    if name != "idle":
        next(times)
    for _ in range(int(pairs)):
        print(json.dumps(next(times)), flush=True)


if __name__ == "__main__":
    main()
