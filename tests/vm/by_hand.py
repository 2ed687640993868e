"""The command lines of `run` and `ring`: one guest, one script in it, and its status."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from subprocess import CalledProcessError

from guest import GUEST_FAILED, SCRIPT_SECONDS, Guest, GuestError
from machine import KERNELS, Machine

STATUSES = """
Exits with the script's status, with 124 when the time ran out, and with 125 when the guest never came up or died.
"""


def parser(name: str, purpose: str) -> argparse.ArgumentParser:
    """Return a parser of the options that say in which machine a script runs, and for how long."""
    parser = argparse.ArgumentParser(prog=f"tests/vm/{name}", description=purpose, epilog=STATUSES)
    parser.add_argument("--kernel", choices=KERNELS, default=Machine.kernel)
    parser.add_argument("--nodes", type=int, default=Machine.nodes, help="NUMA nodes")
    parser.add_argument("--cores", type=int, default=Machine.cores, help="cores per node")
    parser.add_argument("--threads", type=int, default=Machine.threads, help="CPUs per core")
    parser.add_argument("--memory", type=int, default=Machine.memory_mib, metavar="MIB", help="split evenly over nodes")
    parser.add_argument("--append", default=Machine.append, metavar="CMDLINE", help="more kernel parameters")
    parser.add_argument("--lopsided", action="store_true", help="a node without memory, and one without CPUs")
    parser.add_argument("--hotplug", action="store_true", help="CPUs can be unplugged")
    parser.add_argument("--timeout", type=float, default=SCRIPT_SECONDS, metavar="S", help="for the script alone")
    return parser


def run(options: argparse.Namespace, script: Path, arguments: Sequence[str], files: Sequence[Path]) -> int:
    """Boot the machine of the options and run a script with files beside it; show what it prints as it comes."""
    machine = Machine(
        options.kernel,
        options.nodes,
        options.cores,
        options.threads,
        options.memory,
        options.append,
        options.lopsided,
        options.hotplug,
    )
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    print(f"vm: {machine}: starting it", file=sys.stderr)
    try:
        with Guest(machine) as guest:
            print(f"vm: {machine}: script began after {guest.boot_seconds:.1f} s", file=sys.stderr)
            return guest.run_script(script, arguments, files, options.timeout, _show).status
    except (GuestError, CalledProcessError) as error:
        print(f"vm: {machine}: {error}", file=sys.stderr)
        return GUEST_FAILED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _show(output: bytes) -> None:
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()
