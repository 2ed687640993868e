"""Which enclave is meant, whose it is, and what others may have put in its place."""

import json
import os
import pwd
import signal

import pytest

from enclave_cli import enclaves, failure, paths, users
from enclave_cli.cli import main
from tests.sim.launcher.stand import (
    Cli,
    FakeAllocator,
    comm,
    lines,
    run,
)


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
