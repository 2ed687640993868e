"""The console of an enclave in debug mode: recorded from its start, shown to its user."""

import errno
import json
import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enclave_cli import console, failure, paths, users
from enclave_cli.failure import Failure
from tests.sim.launcher.stand import (
    PATIENCE,
    RUN,
    Cli,
    FakeAllocator,
    lines,
    run,
    tiny_image,
    until,
)


def test_the_console_of_an_enclave_in_debug_mode(cli: Cli, allocator: FakeAllocator) -> None:
    enclave = run(cli, "--debug-mode", image=tiny_image("greetings"))
    [described] = json.loads(cli("describe-enclaves").stdout)
    assert described["Flags"] == "DEBUG_MODE"
    assert set(described["Measurements"].values()) == {"0" * 64}
    with cli.begin("console", "--enclave-id", enclave["EnclaveID"]) as watching:
        assert watching.stdout and "greetings" in watching.stdout.readline()
        assert watching.poll() is None
        cli("terminate-enclave", "--enclave-name", "tiny")
        assert watching.wait(PATIENCE) == 0


def test_a_console_whose_reader_has_gone_is_not_watched_on(cli: Cli, allocator: FakeAllocator) -> None:
    """As of `console | head -1`, from an enclave that prints nothing more."""
    enclave = run(cli, "--debug-mode", image=tiny_image("greetings"))
    with cli.begin("console", "--enclave-id", enclave["EnclaveID"]) as watching:
        assert watching.stdout and watching.stderr
        assert "greetings" in watching.stdout.readline()
        watching.stdout.close()
        try:
            assert watching.wait(PATIENCE) == 0
        finally:
            watching.kill()
        assert watching.stderr.read() == ""
    assert allocator.leases, "the enclave lives on"


def test_an_enclave_has_no_console_otherwise(cli: Cli, allocator: FakeAllocator) -> None:
    enclave = run(cli)
    done = cli("console", "--enclave-id", enclave["EnclaveID"])
    assert (done.returncode, done.stdout) == (failure.NO_SUCH_ENCLAVE, "")
    assert "is not in debug mode" in done.stderr


def test_an_attached_console_leaves_stdout_to_the_json(cli: Cli, allocator: FakeAllocator) -> None:
    with cli.begin(*RUN, cli.image(tiny_image("greetings")), "--attach-console") as attached:
        assert attached.stdout and attached.stderr
        assert any("greetings" in line for line in attached.stderr)
        cli("terminate-enclave", "--all")
        assert json.loads(attached.stdout.read())["EnclaveName"] == "tiny"
        assert attached.wait(PATIENCE) == 0


def test_an_interrupt_of_an_attached_console_leaves_the_enclave_and_says_so(cli: Cli, allocator: FakeAllocator) -> None:
    with cli.begin(*RUN, cli.image(tiny_image("greetings")), "--attach-console") as attached:
        assert attached.stdout and attached.stderr
        assert any("greetings" in line for line in attached.stderr)
        told = "".join(iter(attached.stdout.readline, "}\n")) + "}"
        attached.send_signal(signal.SIGINT)
        assert attached.wait(PATIENCE) == failure.INTERRUPTED
        enclave = json.loads(told)
        which = f"--enclave-id {enclave['EnclaveID']}"
        hint = f"see it: enclave-cli console {which}; end it: enclave-cli terminate-enclave {which}"
        assert lines(attached.stderr.read())[-1] == f"interrupted; the enclave runs on ({hint})"
    [described] = json.loads(cli("describe-enclaves").stdout)
    assert described["State"] == "RUNNING"
    assert cli(*f"terminate-enclave {which}".split()).returncode == 0


def test_the_console_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    told = f"got {re.escape(users.named(os.geteuid()))}, wanted root or uid 54321, whose enclave it is"
    with pytest.raises(failure.Failure, match=told) as no:
        console.show(str(tmp_path), 54321, 1, lambda: False)
    assert no.value.status == failure.NOT_PERMITTED


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/etc/passwd"), os.mkfifo], ids=["link", "FIFO"])
def test_what_is_no_recording_is_not_shown(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / paths.CONSOLE)
    with (tmp_path / "shown").open("wb") as out, pytest.raises(Failure, match="cannot show the console"):
        console.show(str(tmp_path), os.geteuid(), out.fileno(), lambda: False)
    assert not (tmp_path / "shown").read_bytes()


def test_the_console_keeps_the_latest_of_much(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    console.record(theirs, str(tmp_path))
    with ours:
        for number in range(40_000):
            ours.sendall(f"{number:<99}\n".encode())
    until(
        lambda: (tmp_path / "console.log").exists() and (tmp_path / "console.log").read_bytes()[-100:-94] == b"39999 "
    )
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2 * console.LARGEST
    with (tmp_path / "shown").open("wb") as out:
        console.show(str(tmp_path), os.geteuid(), out.fileno(), lambda: False)
    shown = (tmp_path / "shown").read_bytes()
    assert len(shown) > console.LARGEST and shown.endswith(f"{39999:<99}\n".encode())
    numbers = [int(line) for line in shown.split(b"\n")[1:-1]]
    assert numbers == list(range(numbers[0], 40_000))
