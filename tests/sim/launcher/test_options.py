"""What the launcher is told: command line, --config file and settings, each mistake of them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ali_enclaves_allocator.server.interface import AcquireParameters
from ali_enclaves_allocator.server.service import LENDING_ERRORS
from enclave_cli import failure
from enclave_cli.allocator import STATUS
from enclave_cli.failure import Failure
from enclave_cli.options import KINDS, Request, cpu_ids, is_name, read_config, read_line
from enclave_cli.settings import Settings
from enclave_cli.settings import read as read_settings
from tests.sim.launcher.stand import Cli


def test_help_lists_every_exit_status(cli: Cli) -> None:
    told = cli("--help").stdout
    for number, text in failure.EXIT_STATUS.items():
        assert f"{number:3}  {text}" in told


def test_starting_needs_little() -> None:
    script = "import sys; before = set(sys.modules); import enclave_cli.cli, enclave_cli.allocator; "
    script += "enclave_cli.cli._parser(); "
    script += "print(*set(sys.modules) - before)"
    imported = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    slow = {"asyncio", "dataclasses", "typing", "subprocess", "hashlib", "inspect", "logging", "ctypes", "shutil"}
    assert not slow & set(imported.stdout.split())


@pytest.mark.parametrize(("columns", "width"), [("60", 60), ("100", 100), ("0", 80), ("", 80), ("wide", 80)])
def test_help_is_as_wide_as_the_terminal(columns: str, width: int, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    _, _, help = cli("run-enclave", "--help").stdout.partition("\n\n")
    assert width - 12 < max(map(len, help.splitlines())) <= width - 2


def test_options_of_a_config_file_and_of_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "web.json"
    path.write_text('{"enclave_name": "web", "cpu_ids": [2, 3], "memory_mib": 128, "eif_path": "/x/y.eif"}')
    request = Request(read_config(str(path)) | {"memory_mib": 256, "attach_console": True})
    assert (request.name, request.cpus, request.memory_mib, request.debug) == ("web", [2, 3], 256, True)
    assert Request({"eif_path": "/x/y.eif", "memory_mib": 64, "cpu_count": 2}).name == "y"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/x/web.v1.eif", "web.v1"),
        ("/x/my image é.eif", "my-image--"),
        (".eif", "eif"),
        ("-/é", "enclave"),
        ("x" * 99, "x" * 64),
    ],
)
def test_the_name_that_a_file_gives(path: str, name: str) -> None:
    assert Request({"eif_path": path, "memory_mib": 64, "cpu_count": 2}).name == name
    AcquireParameters(name=name, memory_mib=64, online=True)


@pytest.mark.parametrize("name", ["", " ", "-x", "a b", "é", "x" * 65])
def test_a_name_that_the_allocator_would_refuse(name: str) -> None:
    with pytest.raises(ValueError):
        AcquireParameters(name=name, memory_mib=64, online=True)
    assert not is_name(name)


def test_every_refusal_of_the_allocator_has_an_exit_status() -> None:
    assert {error.__name__ for error in LENDING_ERRORS} <= set(STATUS)


@pytest.mark.parametrize(
    ("key", "text", "told"),
    [
        ("cpu_count", "two", "--cpu-count: got 'two', wanted a number, such as 2"),
        ("cpu_count", "", "--cpu-count: got '', wanted a number, such as 2"),
        ("cpu_count", "1_0", "--cpu-count: got '1_0', wanted a number, such as 2"),
        ("enclave_cid", "\u0664", "--enclave-cid: got '\u0664', wanted a number, or none"),
        ("enclave_cid", "9" * 5000, f"--enclave-cid: got '{'9' * 64}…', wanted a number, or none"),
        ("memory_mib", "much", "--memory: got 'much', wanted a number of MiB, such as 192"),
        ("memory_mib", "M", "--memory: got 'M', wanted a number of MiB, such as 192"),
        ("memory_mib", "192M", "--memory: got '192M', wanted it in MiB: 192"),
        ("memory_mib", "192mib", "--memory: got '192mib', wanted it in MiB: 192"),
        ("memory_mib", "2GB", "--memory: got '2GB', wanted it in MiB: 2048"),
        ("memory_mib", "1T", "--memory: got '1T', wanted it in MiB: 1048576"),
    ],
)
def test_what_is_no_number(key: str, text: str, told: str) -> None:
    with pytest.raises(Failure) as caught:
        read_line({key: text})
    see = "nothing was taken from the pool (see enclave-cli run-enclave --help)"
    assert (caught.value.status, str(caught.value)) == (failure.USAGE, f"run-enclave: {told}; {see}")


def test_what_a_command_line_has() -> None:
    line = {"cpu_count": "2", "cpu_ids": ["2-3"], "memory_mib": "-5", "enclave_cid": None, "eif_path": "7"}
    assert read_line(line) == {"cpu_count": 2, "cpu_ids": [2, 3], "memory_mib": -5, "eif_path": "7"}


@pytest.mark.parametrize(
    ("arguments", "told", "program"),
    [
        ([], "the following arguments are required: COMMAND", "enclave-cli"),
        (["--speed", "describe-enclaves"], "unrecognized arguments: --speed", "enclave-cli"),
        *(
            (["run-enclave", *more.split()], f"run-enclave: unrecognized arguments: {more}", "enclave-cli run-enclave")
            for more in ("--speed", "--debugmode now", "--debug", "--cpu-c 2")
        ),
        (
            ["run-enclave", "--memory"],
            "run-enclave: argument --memory: expected one argument",
            "enclave-cli run-enclave",
        ),
        (
            ["describe-eif"],
            "describe-eif: the following arguments are required: --eif-path",
            "enclave-cli describe-eif",
        ),
    ],
)
def test_a_command_line_that_is_wrong_is_told_in_one_line(
    cli: Cli, arguments: list[str], told: str, program: str
) -> None:
    done = cli(*arguments)
    assert (done.returncode, done.stdout) == (failure.USAGE, "")
    assert done.stderr == f"enclave-cli: {told}; nothing was done (see {program} --help)\n"


def test_help_tells_what_is_required(cli: Cli) -> None:
    told = cli("run-enclave", "--help").stdout
    assert " --eif-path FILE --memory MIB (--cpu-count N | --cpu-ids CPU ...) [OPTION ...]\n" in told
    [_, required] = told.split("required, here or in the file of --config:\n")
    assert re.findall(r"(?m)^  (--[a-z-]+)", required) == ["--eif-path", "--memory", "--cpu-count", "--cpu-ids"]
    assert "record the console; the measurements become zeros, so nothing is attested" in " ".join(told.split())


@pytest.mark.parametrize("text", ["[]", "{", '{"memory_mib": true}', '{"memory_mib": "64"}', '{"cpu_ids": [true]}'])
def test_a_config_file_that_is_wrong(tmp_path: Path, text: str) -> None:
    path = tmp_path / "web.json"
    path.write_text(text)
    with pytest.raises(Failure) as caught:
        read_config(str(path))
    assert caught.value.status == failure.FILE_REFUSED and str(path) in str(caught.value)


def test_all_mistakes_of_a_config_file_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "web.json"
    path.write_text('{"memory_mib": "64", "cpus": 2, "cpu_ids": ["2"], "debug_mode": true, "memory": 64}')
    with pytest.raises(Failure) as caught:
        read_config(str(path))
    assert str(caught.value) == (
        f'{path}: memory_mib: got "64", wanted a number; cpu_ids: got ["2"], wanted a list of numbers; '
        f"cpus, memory: got unknown keys, wanted one of {', '.join(KINDS)} (did you mean cpu_ids, memory_mib?); "
        "nothing was taken from the pool"
    )


def test_a_config_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "web.json"
    with pytest.raises(Failure) as caught:
        read_config(str(path))
    assert str(caught.value) == f"cannot read {path}: No such file or directory; nothing was taken from the pool"


def test_a_long_name_is_told_in_short() -> None:
    with pytest.raises(Failure, match=f"--enclave-name: got '{'a' * 64}…', wanted 1 to 64"):
        Request({"eif_path": "x", "memory_mib": 64, "cpu_count": 2, "enclave_name": "a" * 5000})


@pytest.mark.parametrize("cid", [1, 2, 3, 4294967295, 4294967296, -1])
def test_reserved_cids(cid: int) -> None:
    with pytest.raises(Failure, match=f"--enclave-cid: got {cid}, wanted 4 to 4294967294, or 0"):
        Request({"eif_path": "x", "memory_mib": 64, "cpu_count": 2, "enclave_cid": cid})


def test_numbers_of_cpus() -> None:
    assert cpu_ids(["2", "3"]) == cpu_ids(["2,3"]) == cpu_ids(["2-3"]) == [2, 3]
    for words in (["x"], [""], ["1-"], ["3-2"], ["0-99999"], [f"0-{10**30}"]):
        with pytest.raises(ValueError):
            cpu_ids(words)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("accel = fast", ":1: accel: got 'fast', wanted auto, kvm, tcg"),
        ("\nspeed = 1", ":2: got 'speed = 1', wanted accel = … or qemu = … or start_seconds = …"),
        ("start_seconds = 0", ":1: start_seconds: got '0', wanted 1 to 86400 seconds"),
        (f"start_seconds = {'9' * 5000}", ":1: start_seconds: got '9"),
        ("heartbeat_seconds = 1m", ":1: heartbeat_seconds: got '1m', wanted 1 to 86400 seconds"),
        ("tcg", ":1: got 'tcg', wanted"),
    ],
)
def test_settings_that_are_wrong(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "enclave-cli.conf"
    path.write_text(text)
    with pytest.raises(Failure) as caught:
        read_settings(str(path))
    assert told in str(caught.value)


def test_each_mistake_of_the_settings_is_told(tmp_path: Path) -> None:
    path = tmp_path / "enclave-cli.conf"
    path.write_text("accel = fast\nqemu = q\nstart_seconds = 0\n")
    with pytest.raises(Failure) as caught:
        read_settings(str(path))
    assert str(caught.value) == (
        f"{path}:1: accel: got 'fast', wanted auto, kvm, tcg; {path}:3: start_seconds: got '0', wanted 1 to 86400 "
        "seconds; nothing was taken from the pool"
    )


def test_the_shipped_settings_are_the_defaults() -> None:
    shipped = Path(__file__).parents[3] / "etc/ali-enclaves/enclave-cli.conf"
    assert vars(read_settings(str(shipped))) == vars(read_settings("/absent")) == vars(Settings())


def test_every_setting_is_shipped_with_its_default() -> None:
    """Each stands in the file, in a comment; an empty one is explained by what it is instead."""
    shipped = (Path(__file__).parents[3] / "etc/ali-enclaves/enclave-cli.conf").read_text()
    for key, value in vars(Settings()).items():
        assert f"\n#{key} = {value}" in shipped
