"""What keeps an enclave from coming up: each is told, and leaves nothing of it."""

import os
import re
import shlex
import signal
import socket
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from enclave_cli import eif, failure
from enclave_cli.failure import Failure
from enclave_cli.holder import Holder
from tests.sim.launcher.stand import (
    PATIENCE,
    RUN,
    Cli,
    FakeAllocator,
    comm,
    command_lines,
    lines,
    tiny_image,
    until,
)

SILENT_QEMU = "#!/bin/sh\nexec sleep 600\n"
MUTE_QEMU = """#!/usr/bin/python3
import socket, sys, time
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[-1].removeprefix("unix:").partition(",")[0])
server.listen()
time.sleep(600)
"""


DYING_QEMU = "#!/bin/sh\necho first >&2\necho 'qemu: no memory for anything' >&2\nexit 3\n"


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


def test_a_boot_that_fails_can_be_seen(cli: Cli, allocator: FakeAllocator) -> None:
    """Its last lines are what a console is for: shown was nothing of an enclave that did not come up."""
    image = cli.image(tiny_image("panic: no init found", {"heartbeat": True}, ends=True))
    done = cli(*RUN, image)
    assert (done.returncode, done.stdout) == (failure.NOT_STARTED, "")
    assert re.search(r"it shut itself down .* \(what it says: run it with --attach-console\)$", done.stderr.strip())
    done = cli(*RUN, image, "--attach-console")
    assert (done.returncode, done.stdout) == (failure.NOT_STARTED, "")
    *_, shown, told = lines(done.stderr)
    assert shown.endswith("panic: no init found")
    assert "it shut itself down" in told and "--attach-console" not in told
    until(lambda: not allocator.leases and not list(cli.run_directory.iterdir()))


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
