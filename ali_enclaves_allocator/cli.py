"""The commands of `ali-enclaves-allocator`. Each imports what it needs when it runs: `status` must be quick."""

import argparse
import errno
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ali_enclaves_allocator import __version__

if TYPE_CHECKING:
    from ali_enclaves_allocator.change.difference import Change

CONFIG = Path("/etc/ali-enclaves/allocator.yaml")
DIRECTORY = Path("/run/ali-enclaves")

EXIT_STATUS = {"ready": 0, "degraded": 1, "starting": 1, "stopping": 1}
NOT_RUNNING = 3
"""Exit status when no service answers, as `systemctl status` has it (LSB)."""

HOW_TO_START = (
    "start it: systemctl start ali-enclaves-allocator (if that was refused: systemctl status ali-enclaves-allocator "
    "says why, ali-enclaves-allocator check tries the file)"
)

EX_SOFTWARE = 70
"""Exit status after a fault of the service's own (sysexits.h)."""

EX_CANTCREAT = 73
"""Exit status when a file, or the output, cannot be written (sysexits.h)."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Why a file that is written as the standard output may take no more (write(2))."""

READER_GONE = 141
"""Exit status when nobody reads the output any more, as a shell tells SIGPIPE."""


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    args = _parser().parse_args(argv)
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head(1), had enough; what is buffered must not fail at exit again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except OSError as error:
        if error.filename is not None or error.errno not in NO_ROOM:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"cannot write the output: {error.strerror}", file=sys.stderr)
        return EX_CANTCREAT
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ali-enclaves-allocator",
        description="Set cores and memory of this machine aside for enclave VMs.",
        epilog="exit status: 0 done; 2 the command line is wrong; 69 the machine cannot give what is asked; 70 a fault "
        "of the program's own; 78 the file is refused; 141 nobody reads the output any more; of status: 0 ready, 1 not "
        "ready; of reload and give-back: 1 only root may; of status and reload: 3 the service does not run, or does "
        "not answer; 73 a file, or the output, cannot be written",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str, file: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(run=run)
        if file:
            sub.add_argument("file", nargs="?", type=Path, default=CONFIG, help=f"default {CONFIG}")
        return sub

    command("serve", _serve, "run the service (systemd does this)")
    command("check", _check, "check a file against this machine; touch nothing")
    plan = command("plan", _plan, "show the steps that a restart with this file would do; touch nothing")
    plan.add_argument("--json", action="store_true", help="the steps as JSON")
    status = command("status", _status, "show the pool of the running service", file=False)
    status.add_argument("--json", action="store_true", help="what GetPool answers, as JSON")
    status.add_argument("--watch", action="store_true", help="show it again after every change")
    metrics = command("metrics", _metrics, "print the pool as OpenMetrics text", file=False)
    metrics.add_argument("--output", type=Path, metavar="FILE", help="replace this file instead, all at once")
    command("give-back", _give_back, "give back what ended leases held, where no service runs (root)", file=False)
    command("reload", _reload, "bring the edited file into force, or change nothing (root)", file=False)
    return parser


def _serve(args: argparse.Namespace) -> int:
    import gc

    gc.disable()  # what is imported stays for good: to look for garbage in it takes a tenth of a start
    import asyncio

    from ali_enclaves_allocator.journal import start_logging
    from ali_enclaves_allocator.serve import run

    gc.freeze()
    gc.enable()
    start_logging("ali-enclaves-allocator")
    return asyncio.run(run(args.file, DIRECTORY))


def _give_back(_: argparse.Namespace) -> int:
    from ali_enclaves_allocator.afterwards import run
    from ali_enclaves_allocator.journal import start_logging

    start_logging("ali-enclaves-allocator")
    return run(DIRECTORY)


def _check(args: argparse.Namespace) -> int:
    change = _propose(args.file)
    if isinstance(change, int):
        return change
    from ali_enclaves_allocator.kernel import instance
    from ali_enclaves_allocator.kernel.sysfs import LinuxFiles, Sysfs
    from ali_enclaves_allocator.model.instance import remarks

    print(f"{args.file}: fits this machine: {change.pool.describe()}")
    _remark(change)
    this = instance.read_instance()
    print(f"instance: {this.describe()}")
    for remark in remarks(this, len(Sysfs(LinuxFiles()).present())):
        print(f"  {remark}")
    return 0


def _remark(change: "Change") -> None:
    """Print what the file does not say in so many words."""
    from ali_enclaves_allocator.model.remarks import remarks

    for remark in remarks(change.pool, change.pool.config) if change.pool.config else ():
        print(f"  {remark.text}")


def _plan(args: argparse.Namespace) -> int:
    change = _propose(args.file)
    if isinstance(change, int):
        return change
    if args.json:
        from pydantic_core import to_json

        print(to_json(change, indent=2).decode())
        return 0
    print(f"pool: {change.pool.describe()}")
    _remark(change)
    for step in (*change.take, *change.give):
        print(f"  {step.describe()}")
    if not change.take and not change.give:
        print("  nothing to do: the pool stands")
    return 0


def _propose(file: Path) -> "Change | int":
    """Return the change that a restart with this file would make, or the exit status after the error is told."""
    from ali_enclaves_allocator import line
    from ali_enclaves_allocator.change.ledger import read
    from ali_enclaves_allocator.kernel.linux import boot_id, linux_kernel
    from ali_enclaves_allocator.model.errors import AllocatorError

    try:
        config, source = line.read_file(file)
        pool = read(DIRECTORY / "ledger.json", boot_id()).pool
        return line.propose(config, source, linux_kernel(DIRECTORY), pool)
    except AllocatorError as error:
        print(error, file=sys.stderr)
        return error.exit_code


def _status(args: argparse.Namespace) -> int:
    from ali_enclaves_allocator.ask import asked, watched
    from enclave_cli.client import CallError, Unavailable

    state, socket = "", str(DIRECTORY / "allocator.sock")
    try:
        for pool in watched(socket, sys.stdout.fileno()) if args.watch else [asked(socket)]:
            if args.watch and not args.json:
                print("\n" * bool(state) + time.strftime("%F %T:"))
            state = pool["state"]
            _show(pool, as_json=args.json)
    except KeyboardInterrupt:
        pass
    except Unavailable as error:
        if state and error.errno in (errno.ECONNRESET, errno.EPIPE):
            how = "how it stands now: ali-enclaves-allocator status"
            print(f"ali-enclaves-allocator has ended the watch, most often because it stopped; {how}", file=sys.stderr)
            return NOT_RUNNING
        return _no_answer(error, _set_aside_still() or HOW_TO_START)
    except CallError as error:
        print(f"ali-enclaves-allocator cannot tell: {error.name}; its log says why", file=sys.stderr)
        return EXIT_STATUS["degraded"]
    return EXIT_STATUS.get(state, NOT_RUNNING)


def _nobody_listens(error: OSError) -> bool:
    return error.errno in (errno.ENOENT, errno.ECONNREFUSED)


def _no_answer(error: OSError, outcome: str) -> int:
    """Say whether there is no service or one that keeps silent. Return the exit status."""
    if _nobody_listens(error):
        print(f"ali-enclaves-allocator is not running; {outcome}", file=sys.stderr)
    else:
        see = "systemctl status ali-enclaves-allocator"
        print(f"ali-enclaves-allocator does not answer: {error.strerror}; see {see}", file=sys.stderr)
    return NOT_RUNNING


def _set_aside_still() -> str:
    """Say what is not the host's although no service runs, such as what leases hold; empty if nothing is."""
    from ali_enclaves_allocator.change.ledger import read
    from ali_enclaves_allocator.kernel.linux import boot_id
    from ali_enclaves_allocator.kernel.processes import LinuxProcesses
    from ali_enclaves_allocator.model.errors import AllocatorError
    from ali_enclaves_allocator.show import remains_of

    try:
        return remains_of(read(DIRECTORY / "ledger.json", boot_id()).pool, LinuxProcesses().alive)
    except AllocatorError as error:
        return str(error)


def _show(pool: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(pool), flush=True)
        return
    from ali_enclaves_allocator.show import map_of

    print(map_of(pool, colour=sys.stdout.isatty() and not os.environ.get("NO_COLOR")), flush=True)


def _metrics(args: argparse.Namespace) -> int:
    from ali_enclaves_allocator.ask import asked
    from ali_enclaves_allocator.metrics import SILENT, STOPPED, openmetrics
    from ali_enclaves_allocator.textfile import replace
    from enclave_cli.client import CallError, Unavailable

    try:
        pool = asked(str(DIRECTORY / "allocator.sock"))
    except Unavailable as error:
        pool = {"state": STOPPED if _nobody_listens(error) else SILENT}
    except CallError:
        pool = {"state": SILENT}
    text = openmetrics(pool)
    if args.output is None:
        print(text, end="", flush=True)
        return 0
    try:
        replace(args.output, text)
    except OSError as error:
        outcome = "it is as it was" if args.output.exists() else "nothing was written"
        print(f"cannot write {args.output}: {error.strerror}; {outcome}", file=sys.stderr)
        return EX_CANTCREAT
    return 0


def _reload(_: argparse.Namespace) -> int:
    from ali_enclaves_allocator.ask import INTERFACE
    from enclave_cli.client import CallError, Client, Unavailable

    try:
        with Client(str(DIRECTORY / "allocator.sock"), timeout=None) as client:
            reply = client.call(f"{INTERFACE}.Reload")
    except Unavailable as error:
        return _no_answer(error, "nothing was changed")
    except CallError as error:
        if "message" not in error.parameters:
            print(f"cannot reload: {error.name}; the log of ali-enclaves-allocator says why", file=sys.stderr)
            return EX_SOFTWARE
        if not _is_journal(sys.stderr):
            print(error.parameters["message"], file=sys.stderr)
        return int(error.parameters.get("exit_code", 1))
    if not _is_journal(sys.stdout):
        print(reply["pool"]["summary"])
    return 0


def _is_journal(stream: TextIO) -> bool:
    """Tell whether a stream goes to the journal (systemd.exec(5), JOURNAL_STREAM), which the service told already."""
    found = os.fstat(stream.fileno())
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
