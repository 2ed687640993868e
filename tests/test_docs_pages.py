"""The manual pages: they render, and they name all that the code has, and nothing else."""

import argparse
import ast
import re
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest

from ali_enclaves_allocator import cli, metrics
from ali_enclaves_allocator.model import errors, events, placement, refusals
from ali_enclaves_allocator.model.config import Config
from ali_enclaves_allocator.server.contract import InternalError
from ali_enclaves_allocator.server.interface import NAME, PoolView, ReloadFailed, State
from ali_enclaves_allocator.server.service import LENDING_ERRORS, Service
from docs import generated
from enclave_cli import cli as launcher
from enclave_cli import enclaves, failure
from enclave_cli.options import KINDS
from enclave_cli.settings import Settings
from tests.conftest import Boot
from tests.foreign import command
from tests.machines import GUEST_2X2X2
from tests.sim.daemons import get_pool, run, running

ROOT = Path(__file__).parent.parent
SERVICE = ROOT / "docs/ali-enclaves-allocator.8"
FILE = ROOT / "docs/allocator.yaml.5"
LAUNCHER = ROOT / "docs/enclave-cli.1"
SOCKET = ROOT / f"docs/{NAME}.7"
PAGES = (LAUNCHER, FILE, SOCKET, SERVICE)

USAGE = 2
"""What argparse exits with."""


def section(page: Path, name: str) -> str:
    """Return the source of a section."""
    [text] = re.findall(rf"(?ms)^\.Sh {name}$(.*?)(?=^\.Sh |\Z)", page.read_text())
    return str(text)


def items(text: str, macro: str = r"\w+") -> list[str]:
    """Return the words that the items of the lists in a text are headed with, whichever macro marks them."""
    heads = re.findall(rf"(?m)^\.It {macro} (.*)$", text)
    return [word for head in heads for word in head.partition(" Ta ")[0].partition(" O")[0].split(" , ")]


def item(text: str, head: str) -> str:
    """Return what an item says."""
    [told] = re.findall(rf"(?ms)^\.It \w+ {head}\b[^\n]*\n(.*?)(?=^\.It |^\.El)", text)
    return str(told)


def all_errors() -> set[str]:
    """Every error that a user can meet, in whichever module."""
    found, kinds = set(), [errors.AllocatorError]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        found.add(kind.__name__)
    return found - {"AllocatorError"}


def constants(package: str) -> Iterator[tuple[str, Any]]:
    """Every assignment of a plain value to a name in capitals, in a package."""
    for path in sorted(ROOT.glob(f"{package}/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=value)) if name.isupper():
                    yield name, value


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_it_renders_without_a_warning(page: Path) -> None:
    said = subprocess.run(
        ["groff", "-k", "-mandoc", "-Tutf8", "-ww", str(page)], capture_output=True, text=True, check=True
    )
    assert said.stderr == ""
    assert f"{page.stem.upper()}({page.suffix[1:]})"[:15] in said.stdout
    lint = ["mandoc", "-T", "lint", "-W", "warning", str(page)]
    assert subprocess.run(lint, check=False, capture_output=True, text=True).stdout == ""


def test_pages_refer_to_pages_that_there_are() -> None:
    ours = {page.name for page in PAGES}
    foreign = {"chrt.1", "nitro-cli.1", "varlinkctl.1", "execve.2", "modules-load.d.5", "unix.7", "vsock.7"}
    asked = {f"{name}.{number}" for page in PAGES for name, number in re.findall(r"\.Xr (\S+) (\d)", page.read_text())}
    asked |= {f"{name}.{number}" for path in ROOT.glob("systemd/*") for name, number in manuals(path)}
    assert asked <= ours | foreign


def manuals(unit: Path) -> list[tuple[str, str]]:
    return re.findall(r"man:([\w.-]+)\((\d)\)", unit.read_text())


def test_every_key_is_told_with_its_default_and_its_least() -> None:
    keys = section(FILE, "KEYS")
    assert sorted(items(keys)) == sorted(Config.model_fields)
    for key, field in Config.model_fields.items():
        told = item(keys, key)
        default = "Required." if field.is_required() else f"Default: {field.default}."
        assert default in told or field.default is None, key
        bounds = [getattr(bound, name) for bound in field.metadata for name in ("ge", "le") if hasattr(bound, name)]
        assert all(re.search(rf"\b{bound}\b", told) for bound in bounds if bound < 1 << 30), key


def test_every_error_is_told() -> None:
    socket, service = items(section(SOCKET, "ERROR REPLIES")), items(section(SERVICE, "MESSAGES"))
    on_the_wire = {error.__name__ for error in (*LENDING_ERRORS, ReloadFailed, InternalError)}
    assert set(socket) == on_the_wire
    assert set(socket) | set(service) == all_errors() | on_the_wire
    at_start = {name for name in {*vars(errors), *vars(placement)} if name in all_errors()}
    assert set(service) == at_start | {"ConfigInvalid", "ReloadRefused"}
    assert len(set(service)) == len(service) and len(set(socket)) == len(socket)
    assert {name for name in vars(refusals) if name in all_errors()} - {"ReloadRefused"} <= on_the_wire


def test_every_method_is_told() -> None:
    methods = [method.name for method in Service(generated._Nobody()).interface().methods]
    assert sorted(items(section(SOCKET, "METHODS"))) == sorted(methods)


def test_every_state_is_told() -> None:
    assert items(section(SERVICE, "STATES")) == list(get_args(State))


def test_every_exit_status_is_told() -> None:
    named = {value for name, value in constants("ali_enclaves_allocator") if name.startswith("EX_")}
    by_errors = {kind.exit_code for kind in (*errors.AllocatorError.__subclasses__(), errors.AllocatorError)}
    status = {USAGE, *named, *by_errors, *cli.EXIT_STATUS.values(), cli.NOT_RUNNING, cli.READER_GONE}
    told = items(section(SERVICE, "EXIT STATUS"))
    assert told == [str(number) for number in sorted(status)]
    assert set(re.findall(r"\b\d+\b", cli._parser().epilog or "")) == set(told)
    for number in ("1", "3"):  # what two commands may end with, page and help say of the same ones
        by_page = set(re.findall(r"(?m)^\.Cm (\S+)", item(section(SERVICE, "EXIT STATUS"), number)))
        by_help = re.findall(rf"of ([a-z -]+):(?: \d [a-z ]+,)? {number}\b", cli._parser().epilog or "")
        assert {name for words in by_help for name in words.split(" and ")} == by_page - {"check"}
    assert items(section(LAUNCHER, "EXIT STATUS")) == [str(number) for number in failure.EXIT_STATUS]


def test_every_message_id_is_told() -> None:
    ids = [
        event["MESSAGE_ID"].hex for name, event in vars(events).items() if isinstance(event, dict) and name.isupper()
    ]
    assert items(section(SERVICE, "JOURNAL")) == ids


def test_every_metric_is_told() -> None:
    pool = {"leases": 0, "config": None, "drift": [], "short_grants": 0, "refused_acquisitions": {}}
    text = metrics.openmetrics(pool | {"state": "ready", "nodes": []})
    assert items(section(SERVICE, "METRICS")) == re.findall(r"(?m)^# TYPE (\w+)", text)


def commands(parser: argparse.ArgumentParser) -> dict[str, set[str]]:
    """Return the commands of a program, and the options of each."""
    [sub] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return {name: options(command) for name, command in sub.choices.items()}


def options(parser: argparse.ArgumentParser) -> set[str]:
    """Return the options of a command, but those that all have."""
    return {o for action in parser._actions for o in action.option_strings if o.startswith("--")} - {"--help"}


def told_commands(page: Path) -> dict[str, set[str]]:
    """Return the commands of a page, and the options that each is told with."""
    found: dict[str, set[str]] = {}
    depth = 0
    for line in section(page, "COMMANDS").splitlines():
        depth += line.startswith(".Bl") - line.startswith(".El")
        if depth == 1 and (head := re.match(r"\.It Cm (\S+)", line)):
            name = head[1]
            found[name] = set()
        if line.startswith(".It"):
            found[name] |= {f"--{option}" for option in re.findall(r"Fl -(\S+)", line)}
    return found


def test_every_command_and_option_is_told() -> None:
    assert told_commands(SERVICE) == commands(cli._parser())
    assert told_commands(LAUNCHER) == commands(launcher._parser())
    for page, parser in ((SERVICE, cli._parser()), (LAUNCHER, launcher._parser())):
        synopsis = section(page, "SYNOPSIS")
        assert all(re.search(rf"\b{name}\b", synopsis) for name in commands(parser))


def test_the_launchers_keys_and_output_are_told() -> None:
    assert set(items(section(LAUNCHER, "CONFIG FILE"))) == set(KINDS)
    assert set(items(section(LAUNCHER, "SETTINGS"))) == set(vars(Settings()))
    holder = {"pid": 0}
    lease = {"id": "0", "name": "a", "annotations": {}, "holder": holder, "cpus": [], "memory_mib": 1}
    assert set(items(section(LAUNCHER, "OUTPUT"))) == {*enclaves.described(lease), "Terminated"}


OURS = ("/etc/ali-enclaves", "/run/", "/dev/", "/var/")
UNTOLD = {"/run/systemd/journal/socket"}
"""What belongs to others, and no user has to know."""


def test_every_file_is_told() -> None:
    told = {path for page in PAGES for path in items(page.read_text(), "Pa")}
    literals = {
        node.value
        for package in ("ali_enclaves_allocator", "enclave_cli")
        for path in ROOT.glob(f"{package}/**/*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(OURS)
    }
    assert {path for path in literals - UNTOLD if not any(known.startswith(path) for known in told)} == set()
    in_run = {value for name, value in constants("enclave_cli") if name in ("MONITOR", "CONSOLE")}
    assert {*in_run, "/run/ali-enclaves/ledger.json", "/run/ali-enclaves/lock"} <= told
    assert {f"/etc/ali-enclaves/{path.name}" for path in ROOT.glob("etc/ali-enclaves/*")} <= told


@pytest.mark.parametrize("name", generated.FILES)
def test_what_the_code_documents_is_up_to_date(name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == generated.FILES[name](), "run make docs"


def test_varlinkctl_takes_the_interface() -> None:
    subprocess.run([*command("varlinkctl"), "validate-idl", str(ROOT / f"docs/{NAME}.varlink")], check=True)


def test_what_the_service_answers_is_as_the_schema_says(boot: Boot) -> None:
    host = boot(GUEST_2X2X2)
    host.configure(memory_mib=64, cpu_count=2)
    validator = jsonschema.Draft202012Validator(PoolView.model_json_schema(mode="serialization"))

    async def test() -> None:
        async with running(host) as daemon:
            host.simulation.online.add(3)
            daemon.look()
            pool = await get_pool(host)
        assert pool["drift"]
        validator.validate(pool)
        assert not validator.is_valid(pool | {"schema_version": 0})
        assert not validator.is_valid({key: value for key, value in pool.items() if key != "nodes"})

    run(test)


def test_every_field_on_the_wire_has_a_comment() -> None:
    lines = generated.interface().splitlines()
    fields = [pair for pair in pairwise(lines) if re.match(r"  \w+: ", pair[1])]
    assert len(fields) > 50
    assert [field for before, field in fields if not before.startswith("  # ")] == []
