"""The launcher against an allocator of the tests, which lends memfds, and a real QEMU that emulates a tiny kernel."""

import errno
import json
import os
import pwd
import re
import shlex
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ali_enclaves_allocator.model import cpus
from ali_enclaves_allocator.server.interface import AcquireParameters
from ali_enclaves_allocator.server.service import LENDING_ERRORS
from enclave_cli import accel, console, eif, enclaves, failure, launch, paths, qemu, users, vsock
from enclave_cli.allocator import STATUS
from enclave_cli.cli import main
from enclave_cli.failure import Failure
from enclave_cli.holder import Holder
from enclave_cli.options import KINDS, Request, cpu_ids, is_name, read_config, read_line
from enclave_cli.settings import Settings
from enclave_cli.settings import read as read_settings
from tests.sim.launcher import PATIENCE, WITHOUT_VSOCK, Cli, FakeAllocator, tiny_image

SILENT_QEMU = "#!/bin/sh\nexec sleep 600\n"
MUTE_QEMU = """#!/usr/bin/python3
import socket, sys, time
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[-1].removeprefix("unix:").partition(",")[0])
server.listen()
time.sleep(600)
"""
DYING_QEMU = "#!/bin/sh\necho first >&2\necho 'qemu: no memory for anything' >&2\nexit 3\n"
RUN = ("run-enclave", "--cpu-count", "2", "--memory", "64", "--eif-path")


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    with tempfile.TemporaryDirectory(prefix="evm-") as run_directory:  # short: the path of a socket has 107 bytes
        yield Cli(tmp_path, Path(run_directory), WITHOUT_VSOCK)


@pytest.fixture
def allocator(cli: Cli) -> Iterator[FakeAllocator]:
    allocator = FakeAllocator(cli.socket)
    yield allocator
    for lease in list(allocator.leases.values()):
        os.kill(lease.holder.pid, signal.SIGKILL)
    until(lambda: not allocator.leases)
    allocator.stop()


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


def lines(text: str) -> list[str]:
    return [line.removeprefix("enclave-cli: ") for line in text.splitlines()]


def run(cli: Cli, *more: str, image: bytes | None = None) -> dict[str, Any]:
    done = cli(*RUN, cli.image(image or tiny_image()), *more)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def allowed(task: Path) -> str:
    [line] = [line for line in (task / "status").read_text().splitlines() if line.startswith("Cpus_allowed_list")]
    return line.split()[1]


def test_the_whole_life_of_an_enclave(cli: Cli, allocator: FakeAllocator) -> None:
    done = cli(*RUN, cli.image(tiny_image()), "--enclave-name", "web", "--enclave-cid", "77")
    enclave = json.loads(done.stdout)
    pid = enclave["ProcessID"]
    assert enclave == {
        "EnclaveName": "web",
        "EnclaveID": "i-0000000000000000-enc0000000000000001",
        "ProcessID": allocator.leases["0000000000000001"].holder.pid,
        "EnclaveCID": 77,
        "NumberOfCPUs": 2,
        "CPUIDs": [0, 1],
        "MemoryMiB": 64,
    }
    assert [line.split(" ")[0] for line in lines(done.stderr)] == ["reading", "taking", "starting", "up"]
    assert Path(f"/proc/{pid}/exe").resolve().name.startswith("qemu-system")
    assert cli.directory_of(enclave).stat().st_mode & 0o777 == 0o700

    [asked] = allocator.asked
    assert (asked.cpu_count, asked.cpus, asked.memory_mib, asked.online, asked.name) == (2, None, 64, True, "web")
    described = json.loads(cli("describe-enclaves").stdout)
    assert described == [enclave | {"State": "RUNNING", "Flags": "NONE", "Measurements": described[0]["Measurements"]}]
    assert set(described[0]["Measurements"]) == {"PCR8", "PCR9", "PCR11"}

    done = cli("terminate-enclave", "--enclave-id", enclave["EnclaveID"])
    assert json.loads(done.stdout) == {
        "EnclaveName": "web",
        "EnclaveID": enclave["EnclaveID"],
        "Terminated": True,
    }
    assert not allocator.leases and not list(cli.run_directory.iterdir())
    assert json.loads(cli("describe-enclaves").stdout) == []


@pytest.mark.parametrize("which", [("--cpu-count", "1"), ("--cpu-ids", "0")])
def test_one_cpu_is_told_as_one(which: tuple[str, str], cli: Cli, allocator: FakeAllocator) -> None:
    done = cli("run-enclave", *which, "--memory", "64", "--eif-path", cli.image(tiny_image()))
    [_, taking, starting, _] = lines(done.stderr)
    assert taking == f"taking cores and memory: {'1 CPU' if which[0] == '--cpu-count' else 'CPU 0'}, 64 MiB"
    assert " on CPU 0 with 64 MiB" in starting


def test_cpus_are_told_as_ranges(cli: Cli, allocator: FakeAllocator) -> None:
    done = cli("run-enclave", "--cpu-ids", "1", "0", "--memory", "64", "--eif-path", cli.image(tiny_image()))
    [_, taking, starting, _] = lines(done.stderr)
    assert taking == "taking cores and memory: CPUs 0-1, 64 MiB"
    assert " on CPUs 0-1 with 64 MiB" in starting


@given(st.sets(st.integers(0, 40), min_size=1))
def test_cpus_are_told_as_the_allocator_tells_them(numbers: set[int]) -> None:
    assert launch._named(list(numbers)) == cpus.named(numbers)


def test_every_thread_has_a_cpu_of_the_lease(cli: Cli, allocator: FakeAllocator) -> None:
    tasks = list(Path(f"/proc/{run(cli)['ProcessID']}/task").iterdir())
    by_name = {(task / "comm").read_text().strip(): allowed(task) for task in tasks}
    assert (by_name["CPU 0/TCG"], by_name["CPU 1/TCG"]) == ("0", "1")
    assert {allowed(task) for task in tasks} == {"0", "1"}


def test_nothing_of_the_launcher_stays(cli: Cli, allocator: FakeAllocator) -> None:
    pid = run(cli)["ProcessID"]
    until(lambda: cli.preamble.encode() not in b"".join(command_lines()))
    kept = {os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()}
    assert not [name for name in kept if name.startswith(str(cli.directory))]
    assert os.getsid(pid) == pid
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert next(line for line in limits.splitlines() if line.startswith("Max core")).split()[4:6] == ["0", "0"]


def command_lines() -> Iterator[bytes]:
    for directory in Path("/proc").iterdir():
        try:
            yield (directory / "cmdline").read_bytes()
        except OSError:
            continue


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
        attached.send_signal(signal.SIGINT)
        assert attached.wait(PATIENCE) == failure.INTERRUPTED
        enclave = json.loads(attached.stdout.read())
        which = f"--enclave-id {enclave['EnclaveID']}"
        hint = f"see it: enclave-cli console {which}; end it: enclave-cli terminate-enclave {which}"
        assert lines(attached.stderr.read()) == [f"interrupted; the enclave runs on ({hint})"]
    [described] = json.loads(cli("describe-enclaves").stdout)
    assert described["State"] == "RUNNING"
    assert cli(*f"terminate-enclave {which}".split()).returncode == 0


def test_two_at_once(cli: Cli, allocator: FakeAllocator) -> None:
    image = cli.image(tiny_image())
    with cli.begin(*RUN, image) as one, cli.begin(*RUN, image) as two:
        ids = {json.loads(launch.communicate(timeout=PATIENCE)[0])["EnclaveID"] for launch in (one, two)}
    assert len(ids) == len(allocator.leases) == 2
    assert "2 enclaves have the name tiny" in cli("terminate-enclave", "--enclave-name", "tiny").stderr
    assert {each["EnclaveID"] for each in json.loads(cli("terminate-enclave", "--all").stdout)} == ids
    assert not allocator.leases


def test_a_qemu_that_does_not_answer_is_killed(cli: Cli, allocator: FakeAllocator) -> None:
    enclave = run(cli)
    os.kill(enclave["ProcessID"], signal.SIGSTOP)
    assert cli("terminate-enclave", "--enclave-id", enclave["EnclaveID"]).returncode == 0
    assert not allocator.leases


def test_termination_waits_until_the_pool_is_whole(cli: Cli, allocator: FakeAllocator) -> None:
    allocator.given_back_after = 2.0
    assert cli("terminate-enclave", "--enclave-id", run(cli)["EnclaveID"]).returncode == 0
    assert not allocator.leases and not allocator.ending


def test_what_an_ended_enclave_left_is_cleared_away(cli: Cli, allocator: FakeAllocator) -> None:
    first = run(cli)
    os.kill(first["ProcessID"], signal.SIGKILL)
    until(lambda: not allocator.leases)
    second = run(cli)
    assert list(cli.run_directory.iterdir()) == [cli.directory_of(second)]


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        ([], failure.USAGE, "missing: --eif-path, --memory, --cpu-count or --cpu-ids; nothing"),
        (["--memory", "64", "--cpu-ids", "2-3"], failure.USAGE, "missing: --eif-path; nothing"),
        (["--memory", "64", "--cpu-ids", "2", "--eif-path", ""], failure.USAGE, "missing: --eif-path; nothing"),
        ([*RUN[1:], "IMAGE", "--enclave-name", ""], failure.USAGE, "--enclave-name: got '', wanted 1 to 64 of"),
        (["--eif-path", "IMAGE"], failure.USAGE, "missing: --memory, --cpu-count or --cpu-ids; nothing"),
        (["--eif-path", "IMAGE", "--memory", "64"], failure.USAGE, "missing: --cpu-count or --cpu-ids; nothing"),
        ([*RUN[1:], "IMAGE", "--cpu-ids", "2"], failure.USAGE, "got both of --cpu-count and --cpu-ids, wanted one"),
        ([*RUN[1:], "IMAGE", "--accel", "fast"], failure.USAGE, "--accel: got 'fast', wanted auto, kvm, tcg"),
        (["--eif-path", "IMAGE", "--memory", "63", "--cpu-count", "2"], failure.USAGE, "got 63 MiB, wanted 64 MiB"),
        (["--eif-path", "/", "--memory", "64", "--cpu-count", "2"], failure.IMAGE_REFUSED, "got a directory"),
        (["--eif-path", "LARGE", "--memory", "64", "--cpu-count", "2"], failure.IMAGE_REFUSED, "give --memory 65 or"),
        (["--eif-path", "DAMAGED", "--memory", "64", "--cpu-count", "2"], failure.IMAGE_REFUSED, "CRC32 at offset 544"),
        (["--eif-path", "ARM", "--memory", "64", "--cpu-count", "2"], failure.IMAGE_REFUSED, "got aarch64, wanted"),
        (["--config", "CONFIG"], failure.FILE_REFUSED, "memory: got an unknown key, wanted one of enclave_name"),
    ],
)
def test_what_is_refused_before_the_pool_is_asked(
    cli: Cli, allocator: FakeAllocator, arguments: list[str], status: int, told: str
) -> None:
    files = {
        "IMAGE": tiny_image(),
        "LARGE": tiny_image() + bytes(16 << 20),
        "DAMAGED": tiny_image()[:-1] + b"!",
        "ARM": (other := bytearray(tiny_image())),
        "CONFIG": b'{"memory": 64}',
    }
    other[7] = 1
    other[544:548] = zlib.crc32(other[548:], zlib.crc32(other[:544])).to_bytes(4, "big")
    for name, data in files.items():
        (cli.directory / name).write_bytes(data)
    done = cli("run-enclave", *[str(cli.directory / word) if word in files else word for word in arguments])
    assert (done.returncode, done.stdout) == (status, "")
    assert told in done.stderr and "nothing was taken from the pool" in done.stderr
    assert not allocator.asked


def test_what_is_no_image_is_refused_at_once(cli: Cli, allocator: FakeAllocator) -> None:
    os.mkfifo(cli.directory / "fifo")
    (cli.directory / "empty").touch()
    (cli.directory / "loop").symlink_to("loop")
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(cli.directory / "socket"))
    with bound:
        for name, told in [
            (".", "got a directory, wanted a regular file"),
            ("fifo", "got a FIFO, wanted a regular file"),
            ("/dev/zero", "got a character device, wanted a regular file"),
            ("socket", "cannot open it: No such device or address"),
            ("loop", "cannot open it: Too many levels of symbolic links"),
            ("absent", "cannot open it: No such file or directory"),
            ("empty", "header at offset 0: got 0 bytes, wanted 548 bytes"),
        ]:
            path = cli.directory / name
            for command in (RUN, ("describe-eif", "--eif-path")):
                done = cli(*command, str(path))
                assert (done.returncode, done.stdout) == (failure.IMAGE_REFUSED, "")
                assert f"cannot use image {path}: {told}" in lines(done.stderr)[-1]
    assert not allocator.asked


@pytest.mark.parametrize(("path", "told"), [("", "''"), ("/absent/my image.eif", "'/absent/my image.eif'")])
def test_a_path_is_told_where_it_begins_and_ends(path: str, told: str) -> None:
    with pytest.raises(Failure, match=f"^cannot use image {told}: cannot open it: No such file or directory; nothing"):
        eif.read(path)


def test_no_image_makes_the_launcher_take_memory(cli: Cli, allocator: FakeAllocator) -> None:
    """A reader that believed a size would ask for more than it may have, and fail otherwise than by a refusal."""
    lying = bytearray(tiny_image())
    struct.pack_into(">Q", lying, eif.AT_SIZES, 1 << 40)
    lying[548 + 4 : 548 + 12] = (1 << 40).to_bytes(8, "big")
    most = f"ulimit -v {256 << 10} && exec " + shlex.join(cli.command("describe-eif", "--eif-path"))
    for image in (bytes(lying), tiny_image() + bytes(400 << 20)):
        done = subprocess.run(["bash", "-c", f"{most} {cli.image(image)}"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (failure.IMAGE_REFUSED, "")
        assert "section 0: size at offset 284" in done.stderr or "CRC32 at offset 544" in done.stderr


@pytest.mark.parametrize(
    ("error", "status"), [("InsufficientCpus", failure.POOL_REFUSED), ("NotPermitted", failure.NOT_PERMITTED)]
)
def test_what_the_allocator_refuses(cli: Cli, allocator: FakeAllocator, error: str, status: int) -> None:
    allocator.refuse = (error, "cannot lend: 2 CPUs wanted, 0 free")
    done = cli(*RUN, cli.image(tiny_image()))
    assert (done.returncode, done.stdout) == (status, "")
    assert lines(done.stderr)[-1] == "cannot lend: 2 CPUs wanted, 0 free"


def test_no_service(cli: Cli) -> None:
    for command in ([*RUN, cli.image(tiny_image())], ["describe-enclaves"], ["terminate-enclave", "--all"]):
        done = cli(*command)
        assert (done.returncode, done.stdout) == (failure.SERVICE_UNAVAILABLE, "")
        assert "it is not running: systemctl start ali-enclaves-allocator" in done.stderr


def test_a_qemu_that_dies(tmp_path: Path, cli: Cli, allocator: FakeAllocator) -> None:
    (tmp_path / "qemu").write_text(DYING_QEMU)
    done = cli(*RUN, cli.image(tiny_image()))
    assert (done.returncode, done.stdout) == (failure.NOT_STARTED, "")
    assert "ended before it opened its monitor, with status 3: qemu: no memory for anything" in done.stderr
    until(lambda: not allocator.leases)
    assert not list(cli.run_directory.iterdir())


def test_a_qemu_that_never_opens_its_monitor(tmp_path: Path, cli: Cli, allocator: FakeAllocator) -> None:
    (tmp_path / "qemu").write_text(SILENT_QEMU)
    cli.set("start_seconds = 1")
    done = cli(*RUN, cli.image(tiny_image()))
    assert (done.returncode, done.stdout) == (failure.NOT_STARTED, "")
    assert "waited 1 s for QEMU to open its monitor; ended it (on a slow machine set start_seconds=" in done.stderr
    until(lambda: not allocator.leases)


def test_a_monitor_that_never_answers(tmp_path: Path, cli: Cli, allocator: FakeAllocator) -> None:
    (tmp_path / "qemu").write_text(MUTE_QEMU)
    cli.set("start_seconds = 1")
    done = cli(*RUN, cli.image(tiny_image()))
    assert (done.returncode, done.stdout) == (failure.NOT_STARTED, "")
    assert "waited 1 s for an answer of QEMU's monitor; ended it" in done.stderr
    until(lambda: not allocator.leases)


def test_a_heartbeat_that_never_comes(cli: Cli, allocator: FakeAllocator) -> None:
    cli.set("heartbeat_seconds = 1")
    done = cli(*RUN, cli.image(tiny_image(metadata={"heartbeat": True})))
    assert (done.returncode, done.stdout) == (failure.NOT_STARTED, "")
    assert "waited 1 s for the heartbeat that the image promises; ended it (on a slow machine set" in done.stderr
    until(lambda: not allocator.leases)


@pytest.mark.parametrize("next_step", [lambda holder: holder.acquire({}), lambda holder: holder.start("/")])
def test_a_child_that_is_killed_early(next_step: Callable[[Holder], object]) -> None:
    holder = Holder(lambda lease, fds: [], {})
    os.kill(holder.pid, signal.SIGKILL)
    assert holder.ended(PATIENCE)
    with pytest.raises(Failure, match=r"it ended before it .*, with signal 9"):
        next_step(holder)


def test_no_qemu(tmp_path: Path, cli: Cli, allocator: FakeAllocator) -> None:
    (tmp_path / "qemu").unlink()
    done = cli(*RUN, cli.image(tiny_image()))
    assert done.returncode == failure.MACHINE_LACKS and "cannot find QEMU" in done.stderr
    assert not allocator.asked


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("phase", ["acquiring", "starting"])
def test_a_launcher_that_dies_leaves_nothing(
    tmp_path: Path, cli: Cli, allocator: FakeAllocator, number: int, phase: str
) -> None:
    (tmp_path / "qemu").write_text(SILENT_QEMU)
    allocator.silent = phase == "acquiring"
    with cli.begin(*RUN, cli.image(tiny_image())) as launcher:
        if phase == "acquiring":
            until(lambda: allocator.asked)
        else:
            until(lambda: allocator.leases and comm(next(iter(allocator.leases.values())).holder.pid) == "sleep")
        launcher.send_signal(number)
        assert launcher.wait(PATIENCE) == (failure.INTERRUPTED if number == signal.SIGINT else -number)
        told = launcher.stderr.read() if launcher.stderr else ""
        assert ("interrupted; the enclave is not started, and nothing of it is left" in told) == (
            number == signal.SIGINT
        )
    until(lambda: not allocator.leases and cli.preamble.encode() not in b"".join(command_lines()))


def comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def test_who_asks_by_name_is_told_names(cli: Cli, allocator: FakeAllocator) -> None:
    enclave = run(cli, "--enclave-name", "web")
    for option, there in (("--enclave-name", "web"), ("--enclave-id", enclave["EnclaveID"])):
        done = cli("terminate-enclave", option, "wbe")
        assert done.returncode == failure.NO_SUCH_ENCLAVE and done.stderr.endswith(f"running: {there}\n")


@pytest.mark.parametrize("which", ["id", "name"])
def test_an_enclave_without_a_name_or_an_id_is_not_looked_for_by_the_other(
    which: str, cli: Cli, allocator: FakeAllocator
) -> None:
    done = cli("terminate-enclave", f"--enclave-{which}", "")
    assert done.returncode == failure.NO_SUCH_ENCLAVE
    assert lines(done.stderr) == [f"cannot find an enclave with the {which} ''; running: none"]


def test_another_programs_lease_is_the_allocators_to_end(cli: Cli, allocator: FakeAllocator) -> None:
    enclave = run(cli)
    lease = allocator.leases[enclave["EnclaveID"][-16:]]
    lease.annotations.clear()
    assert cli("terminate-enclave", "--enclave-id", lease.id).returncode == 0
    assert not allocator.leases and comm(lease.holder.pid)
    os.kill(lease.holder.pid, signal.SIGKILL)


def test_whose_an_enclave_is_that_this_user_may_not_end(cli: Cli, allocator: FakeAllocator) -> None:
    """The allocator knows users by their numbers; whoever tells a person names them."""
    enclave = run(cli)
    lease = allocator.leases[enclave["EnclaveID"][-16:]]
    lease.annotations.clear()  # so that the allocator is asked
    allocator.refuse = ("NotPermitted", "cannot release web: got uid 1002, wanted root or uid 65534")
    for uid, owner in ((pwd.getpwnam("nobody").pw_uid, "nobody (uid 65534)"), (54321, "uid 54321")):
        allocator.leases[lease.id] = lease.model_copy(update={"holder": lease.holder.model_copy(update={"uid": uid})})
        done = cli("terminate-enclave", "--enclave-id", lease.id)
        assert (done.returncode, done.stdout) == (failure.NOT_PERMITTED, "")
        us = users.named(os.geteuid())
        assert lines(done.stderr) == [
            f"cannot end {enclave['EnclaveID']}: got {us}, wanted root or {owner}, whose enclave it is; "
            "nothing was changed"
        ]
    done = cli("terminate-enclave", "--all")
    assert (done.returncode, json.loads(done.stdout)) == (0, []), "all that this user may end"
    assert lines(done.stderr) == [f"{enclave['EnclaveID']} runs on: it is of uid 54321"]
    allocator.refuse = ("KernelRefused", "cannot take back lease web")
    done = cli("terminate-enclave", "--enclave-id", lease.id)
    assert (done.returncode, lines(done.stderr)) == (failure.POOL_REFUSED, ["cannot take back lease web"])
    done = cli("terminate-enclave", "--all")
    assert (done.returncode, json.loads(done.stdout)) == (failure.POOL_REFUSED, [])
    assert lines(done.stderr) == ["cannot take back lease web", "1 did not end"]
    os.kill(lease.holder.pid, signal.SIGKILL)


def test_a_name_that_would_upset_a_terminal_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: pwd.struct_passwd(("\x1b[31m", "", uid, 0, "", "", "")))
    assert users.named(7) == "uid 7"


@pytest.mark.parametrize(
    ("us", "status", "told"),
    [
        (54321, failure.NOT_PERMITTED, "got uid 54321, wanted root or uid 54322, whose enclave it is; nothing"),
        (54322, failure.NO_SUCH_ENCLAVE, "run it with --debug-mode"),
        (0, failure.NO_SUCH_ENCLAVE, "run it with --debug-mode"),
    ],
)
def test_whose_an_enclave_without_a_console_is(
    us: int, status: int, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Debug mode is no advice for another's enclave."""
    lease = {"id": "0123456789abcdef", "name": "web", "annotations": {}, "holder": {"pid": 1, "uid": 54322}}
    monkeypatch.setattr(enclaves, "find", lambda *_: lease)
    monkeypatch.setattr(os, "geteuid", lambda: us)
    assert main(["console", "--enclave-name", "web"]) == status
    assert told in capsys.readouterr().err


def test_a_link_in_the_place_of_a_directory_is_not_followed(cli: Cli, allocator: FakeAllocator) -> None:
    """Members of the group may make what they like there, as soon as they know of a lease."""
    others = cli.directory / "others"
    others.mkdir()
    (others / "precious").touch()
    (cli.run_directory / "0000000000000001").symlink_to(others)
    (cli.run_directory / "0000000000000001.x").symlink_to(others)
    enclave = run(cli)
    directory = max(cli.run_directory.iterdir(), key=lambda path: path.is_dir() and not path.is_symlink())
    directory.rename(cli.directory / "moved")
    directory.symlink_to(others)
    assert cli("terminate-enclave", "--enclave-id", enclave["EnclaveID"]).returncode == 0
    assert [path.name for path in others.iterdir()] == ["precious"]


def test_the_monitor_in_another_users_directory_is_not_asked(cli: Cli, allocator: FakeAllocator) -> None:
    """Root ends the enclave of one who has laid the way to the monitor of a third one's there."""
    theirs, third = run(cli), run(cli)
    id = theirs["EnclaveID"][-16:]
    holder = allocator.leases[id].holder
    other = holder.model_copy(update={"uid": holder.uid + 1})
    allocator.leases[id] = allocator.leases[id].model_copy(update={"holder": other})
    os.chown(cli.directory_of(theirs), other.uid, -1)
    monitor = cli.directory_of(theirs) / paths.MONITOR
    monitor.unlink()
    monitor.symlink_to(cli.directory_of(third) / paths.MONITOR)
    assert cli("terminate-enclave", "--enclave-id", theirs["EnclaveID"]).returncode == 0
    assert list(allocator.leases) == [third["EnclaveID"][-16:]]


@pytest.mark.parametrize("instance", ["i-\x1b[31m", "i-é", {"i-": 1}, None, "web"])
def test_an_instance_that_a_holder_made_up_is_not_shown(instance: object) -> None:
    lease = {"id": "0123456789abcdef", "annotations": {"instance": instance}}
    assert enclaves.enclave_id(lease) == "i-0000000000000000-enc0123456789abcdef"


def test_describe_eif(cli: Cli) -> None:
    described = json.loads(cli("describe-eif", "--eif-path", cli.image(tiny_image("quiet", {"name": "x"}))).stdout)
    assert described["CommandLine"] == "quiet" and described["Metadata"] == {"name": "x"}
    assert list(described["Measurements"]) == ["HashAlgorithm", "PCR8", "PCR9", "PCR11"]
    assert [part["Type"] for part in described["Sections"]] == ["kernel", "cmdline", "metadata", "ramdisk"]


def test_help_lists_every_exit_status(cli: Cli) -> None:
    told = cli("--help").stdout
    for number, text in failure.EXIT_STATUS.items():
        assert f"{number:3}  {text}" in told


def test_starting_needs_little() -> None:
    script = "import sys; before = set(sys.modules); import enclave_cli.cli, enclave_cli.allocator; "
    script += "print(*set(sys.modules) - before)"
    imported = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    slow = {"asyncio", "dataclasses", "typing", "subprocess", "hashlib", "inspect", "logging", "ctypes", "shutil"}
    assert not slow & set(imported.stdout.split())


def test_the_command_of_qemu_has_nothing_but_cpus_memory_and_vsock() -> None:
    lease = {"id": "00000000000000aa", "cpus": [2, 3], "memory_mib": 192}
    fds = {"memory": 5, "vsock": 6, "kernel": 7, "initrd": 8}
    command = qemu.command("/usr/bin/qemu", lease, "quiet", "kvm", 9, fds, "/run/monitor.sock")
    assert command.count("-device") == 1 and "vhost-vsock-pci,guest-cid=9,vhostfd=6" in command
    assert {"-nodefaults", "-no-user-config", "-sandbox"} <= set(command)
    for option in ("-drive", "-hda", "-netdev", "-cdrom", "-chardev"):
        assert option not in command


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
        f"cpus, memory: got unknown keys, wanted one of {', '.join(KINDS)}; nothing was taken from the pool"
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


def test_the_shipped_settings_are_the_defaults() -> None:
    shipped = Path(__file__).parents[2] / "etc/ali-enclaves/enclave-cli.conf"
    assert vars(read_settings(str(shipped))) == vars(read_settings("/absent")) == vars(Settings())


def test_every_setting_is_shipped_with_its_default() -> None:
    """Each stands in the file, in a comment; an empty one is explained by what it is instead."""
    shipped = (Path(__file__).parents[2] / "etc/ali-enclaves/enclave-cli.conf").read_text()
    for key, value in vars(Settings()).items():
        assert f"\n#{key} = {value}" in shipped


def test_kvm_is_believed_when_it_has_run_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(paths, "KVM", str(device))
    monkeypatch.setattr(accel, "PROBE_SECONDS", 0.3)
    monkeypatch.setattr(accel, "_runs_code", lambda: True)
    assert accel.choose("auto") == accel.choose("kvm") == "kvm"
    monkeypatch.setattr(accel, "_runs_code", lambda: False)
    assert accel.choose("auto") == "tcg"
    monkeypatch.setattr(accel, "_runs_code", lambda: time.sleep(60))
    began = time.monotonic()
    assert accel.probe(0.3) == "it ran no code within 0.3 s"
    assert time.monotonic() - began < 5


def test_kvm_that_is_no_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "kvm").touch()
    monkeypatch.setattr(paths, "KVM", str(tmp_path / "kvm"))
    assert accel.choose("auto") == "tcg"
    with pytest.raises(Failure, match="it cannot run code; nothing was taken from the pool"):
        accel.choose("kvm")
    monkeypatch.setattr(paths, "KVM", str(tmp_path / "absent"))
    assert accel.choose("auto") == "tcg"


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


class Listener:
    """A vsock listener to which one peer connects."""

    def __init__(self, cid: int, data: bytes) -> None:
        self.cid, (self.peer, self.connection) = cid, socket.socketpair()
        self.peer.sendall(data)

    def accept(self) -> tuple[socket.socket, tuple[int, int]]:
        return self.connection, (self.cid, 1234)


@pytest.mark.parametrize(("cid", "data", "heard"), [(5, b"\xb7", True), (6, b"\xb7", False), (5, b"x", False)])
def test_the_heartbeat_of_the_enclave_only(cid: int, data: bytes, heard: bool) -> None:
    listener = Listener(cid, data)
    with listener.peer:
        assert vsock.heard(listener, 5) is heard  # type: ignore[arg-type]
        if heard:
            assert listener.peer.recv(1) == b"\xb7"


def test_annotations_fit_the_interface() -> None:
    measured = {f"PCR{number}": "0" * 64 for number in (8, 9, 11, 12)}
    told = enclaves.annotations(2**32 - 2, "/" + "é" * 3000 + "/the-end.eif", False, measured)
    assert len(json.dumps(told)) <= 1024 and told["image"].endswith("/the-end.eif")


def test_a_path_that_is_no_text_can_be_told() -> None:
    told = enclaves.annotations(4, os.fsdecode(b"/\xff.eif"), False, {})
    assert told["image"].encode().decode() == "/\ufffd.eif"
