"""The commands of `enclave-cli`. Each imports what it needs when it runs, so that all of them start quickly."""

import argparse
import os
import sys
from contextlib import suppress
from functools import partial

from enclave_cli import __version__, failure, paths
from enclave_cli.failure import EXIT_STATUS, Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status; what fails is told on standard error."""
    try:
        args = _parser().parse_args(argv)
        args.run(args)
        sys.stdout.flush()
        return 0
    except Failure as error:
        if error.status == failure.OUTPUT_LOST:
            _give_up_output()
        print(f"enclave-cli: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        return failure.INTERRUPTED
    except BrokenPipeError:  # who read our output has gone
        _give_up_output()
        return 0


def _give_up_output() -> None:
    """Let what is still to be written not fail once more at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


class _Parser(argparse.ArgumentParser):
    """A parser that refuses as everything else does: in one line, with the outcome and what to do."""

    def parse_known_args(self, args: "Any" = None, namespace: "Any" = None) -> "Any":
        """Refuse what is unknown here: the parser of all commands, to which it is left, knows no command's help."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown

    def error(self, message: str) -> "NoReturn":
        command = f"{self.prog} ".partition(" ")[2].replace(" ", ": ")
        raise Failure(failure.USAGE, f"{command}{message}; nothing was done (see {self.prog} --help)")


def _columns() -> int:
    """Return how wide the terminal is. argparse would ask shutil, whose import takes a sixth of a command's time."""
    with suppress(ValueError, OSError):
        return int(os.environ.get("COLUMNS") or 0) or os.get_terminal_size().columns or 80
    return 80


def _parser() -> argparse.ArgumentParser:
    width = _columns() - 2
    parser = _Parser(
        prog="enclave-cli",
        description="Run enclave VMs on the cores and memory that ali-enclaves-allocator has set aside.",
        epilog="exit status:\n" + "\n".join(f"  {number:3}  {text}" for number, text in EXIT_STATUS.items()),
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, width=width),
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"enclave-cli {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: "Callable[[argparse.Namespace], None]", text: str) -> argparse.ArgumentParser:
        description = f"{text[0].upper()}{text[1:]}."
        formatter = partial(argparse.HelpFormatter, width=width)
        sub = commands.add_parser(
            name, help=text, description=description, formatter_class=formatter, allow_abbrev=False
        )
        sub.set_defaults(run=run)
        return sub

    _run_options(command("run-enclave", _run, "run an enclave and print it as JSON"))
    command("describe-enclaves", _describe, "print all enclaves of this machine as JSON")
    end = command("terminate-enclave", _terminate, "end an enclave and wait until the pool has its part back")
    which = end.add_mutually_exclusive_group(required=True)
    which.add_argument("--enclave-id", metavar="ID")
    which.add_argument("--enclave-name", metavar="NAME")
    which.add_argument("--all", action="store_true", help="all that this user may end")
    watch = command("console", _console, "show what an enclave in debug mode prints, from its start and on")
    which = watch.add_mutually_exclusive_group(required=True)
    which.add_argument("--enclave-id", metavar="ID")
    which.add_argument("--enclave-name", metavar="NAME")
    image = command("describe-eif", _describe_eif, "check an image and print its measurements as JSON")
    image.add_argument("--eif-path", required=True, metavar="FILE")
    return parser


def _run_options(run: argparse.ArgumentParser) -> None:
    from enclave_cli.options import KINDS

    run.usage = "%(prog)s --eif-path FILE --memory MIB (--cpu-count N | --cpu-ids CPU ...) [OPTION ...]"
    required = run.add_argument_group("required, here or in the file of --config")
    required.add_argument("--eif-path", metavar="FILE", help="the enclave image file")
    required.add_argument("--memory", metavar="MIB", dest="memory_mib", help="64 at least, and four times the image")
    required.add_argument("--cpu-count", metavar="N", help="CPUs of the enclave: whole cores")
    required.add_argument(
        "--cpu-ids", nargs="+", metavar="CPU", help="these CPUs of the pool instead: 2 3, or 2,3, or 2-3"
    )
    run.add_argument("--enclave-name", metavar="NAME", help="default: the name of the file")
    run.add_argument("--enclave-cid", metavar="CID", help="address on vsock; 0 or absent: a free one")
    debug = "record the console; the measurements become zeros, so nothing is attested"
    run.add_argument("--debug-mode", action="store_true", default=None, help=debug)
    run.add_argument(
        "--attach-console",
        action="store_true",
        default=None,
        help="debug mode, and show the console; Ctrl-C ends the showing, not the enclave",
    )
    run.add_argument("--accel", metavar="auto|kvm|tcg", help=f"default: accel= in {paths.SETTINGS}, or auto")
    run.add_argument("--config", metavar="FILE", help=f"JSON object with the keys {' '.join(KINDS)}; options win")


def _run(args: argparse.Namespace) -> None:
    from enclave_cli import enclaves, settings
    from enclave_cli.launch import Launch
    from enclave_cli.options import Request, read_config, read_line

    given = read_config(args.config) if args.config else {}
    request = Request(given | read_line(vars(args)))
    launch = Launch(request, settings.read(paths.SETTINGS), _progress)
    try:
        _print(enclaves.started(launch.run()))
        if launch.attached:
            launch.attached.wait()
    except KeyboardInterrupt:
        left = "the enclave is not started, and nothing of it is left"
        what = _runs_on(launch.lease, request.debug) if launch.lease else left
        raise Failure(failure.INTERRUPTED, f"interrupted; {what}") from None
    except Failure as error:
        if not launch.lease:
            raise
        raise Failure(error.status, f"{error}; {_runs_on(launch.lease, request.debug)}") from None


def _runs_on(lease: "dict[str, Any]", debug: bool) -> str:
    """Say that an enclave runs on, and what to do with it."""
    from enclave_cli import enclaves

    which = f"--enclave-id {enclaves.enclave_id(lease)}"
    see = f"see it: enclave-cli console {which}; " if debug else ""
    return f"the enclave runs on ({see}end it: enclave-cli terminate-enclave {which})"


def _describe(_: argparse.Namespace) -> None:
    from enclave_cli import allocator, enclaves

    _print([enclaves.described(lease) for lease in allocator.leases()])


def _terminate(args: argparse.Namespace) -> None:
    from enclave_cli import allocator, enclaves, users

    if not args.all:
        return _print(enclaves.terminate(enclaves.find(args.enclave_id, args.enclave_name)))
    ended, failed = [], []
    for lease in allocator.leases():
        try:
            ended.append(enclaves.terminate(lease))
        except Failure as error:
            if error.status == failure.NOT_PERMITTED:
                _progress(f"{enclaves.enclave_id(lease)} runs on: it is of {users.named(lease['holder']['uid'])}")
            else:
                _progress(str(error))
                failed.append(error)
    _print(ended)
    if failed:
        raise Failure(failed[0].status, f"{len(failed)} did not end")


def _console(args: argparse.Namespace) -> None:
    from enclave_cli import console, enclaves, users

    lease = enclaves.find(args.enclave_id, args.enclave_name)
    holder = lease["holder"]
    if not lease["annotations"].get("debug"):
        if os.geteuid() not in (0, holder["uid"]):  # debug mode would not help them
            raise users.not_theirs("show the console", holder["uid"])
        raise Failure(
            failure.NO_SUCH_ENCLAVE,
            f"cannot show the console: {enclaves.enclave_id(lease)} is not in debug mode (run it with --debug-mode)",
        )
    directory, out = enclaves.directory(lease), console.output()
    console.show(directory, holder["uid"], out, lambda: enclaves.lives(holder["pid"]))


def _describe_eif(args: argparse.Namespace) -> None:
    from enclave_cli import eif, measurements

    image = eif.read(args.eif_path)
    _print(
        {
            "EifVersion": image.version,
            "Architecture": image.architecture,
            "Measurements": {"HashAlgorithm": measurements.ALGORITHM} | measurements.measure(image),
            "IsSigned": eif.SIGNATURE in image.small,
            "CheckCRC": True,
            "CommandLine": image.cmdline,
            "DefaultMemoryMiB": image.default_memory >> 20,
            "DefaultCPUs": image.default_cpus,
            "Sections": [
                {"Type": eif.KINDS[part.kind], "Offset": part.offset, "Size": part.size, "Sha256": part.sha256.hex()}
                for part in image.sections
            ],
            "Metadata": image.metadata,
        }
    )


def _progress(text: str) -> None:
    print(f"enclave-cli: {text}", file=sys.stderr, flush=True)


def _print(value: "Any") -> None:
    import json

    try:
        print(json.dumps(value, indent=2), flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Failure(failure.OUTPUT_LOST, f"cannot write the output: {error.strerror}") from None
