"""The life of an enclave: a real QEMU that emulates a tiny kernel, on what an allocator of the tests lends."""

import json
import os
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ali_enclaves_allocator.model import cpus
from enclave_cli import failure, launch
from tests.sim.launcher.stand import (
    PATIENCE,
    RUN,
    Cli,
    FakeAllocator,
    command_lines,
    lines,
    run,
    tiny_image,
    until,
)


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
    assert [line.split(" ")[0] for line in lines(done.stderr)] == ["reading", "taking", "starting", "up:"]
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


def test_an_enclave_whose_id_cannot_be_written_is_told_all_the_same(cli: Cli, allocator: FakeAllocator) -> None:
    with open("/dev/full", "w") as full:
        done = cli(*RUN, cli.image(tiny_image()), stdout=full)
        [lease] = allocator.leases
        which = f"--enclave-id i-0000000000000000-enc{lease}"
        runs_on = f"the enclave runs on (end it: enclave-cli terminate-enclave {which})"
        told = "cannot write the output: No space left on device"
        assert (done.returncode, lines(done.stderr)[-1]) == (failure.OUTPUT_LOST, f"{told}; {runs_on}")
        done = cli("describe-enclaves", stdout=full)
        assert (done.returncode, lines(done.stderr)) == (failure.OUTPUT_LOST, [told])
