"""What a file meets on the machine: refused at no cost, told at its line, and told what it does not say."""

import errno
import os
from pathlib import Path

import pytest

from ali_enclaves_allocator.line import read_file
from ali_enclaves_allocator.model.config import ConfigInvalid
from ali_enclaves_allocator.model.errors import (
    ConfigUnreadable,
)
from ali_enclaves_allocator.model.events import MEMORY_ROUNDED, TASK_DISPLACED
from tests.conftest import Boot
from tests.machines import (
    GUEST_2X2X2,
    NO_MEMORY_ON_NODE_1,
    ONE_NODE,
)
from tests.sim.effects import Died
from tests.sim.scenarios import LARGE, SCENARIOS


def test_a_bad_file_costs_nothing(boot: Boot) -> None:
    host = SCENARIOS["grow"].prepare(boot)
    for keys in ({"memory_mib": "much"}, {"cpu_count": 3}, {"cpu_pool": "2-3"}, {"cpu_count": 99}):
        host.configure(**LARGE | keys)
        with pytest.raises(Exception, match="nothing was changed"):
            host.start()
        assert host.done == []
        host.assert_pool_stands()


def test_a_bad_file_does_not_keep_a_dead_allocators_work(boot: Boot) -> None:
    """The start fails and must leave the machine as it was, not as a crash left it."""
    host = SCENARIOS["apply"].prepare(boot)
    host.effects.die_after("hold")
    with pytest.raises(Died):
        host.start()
    host.config_path.write_text("memory_mib: 64\ncpu_cuont: 2\n")
    with pytest.raises(ConfigInvalid):
        host.start()
    host.assert_untouched()


def test_a_key_that_does_not_suit_the_machine_is_told_at_its_line(boot: Boot) -> None:
    host = boot(GUEST_2X2X2)
    host.config_path.write_text("memory_mib: 64\ncpu_count: 3\n")
    with pytest.raises(ConfigInvalid) as refused:
        host.start()
    assert str(refused.value) == (
        f"{host.config_path}:2:12: cpu_count: got 3, wanted whole cores of 2 CPUs: 2 or 4\n"
        "    cpu_count: 3\n"
        "               ^\n"
        "nothing was changed"
    )
    host.assert_untouched()


def test_rounding_and_moved_tasks_are_told(boot: Boot, caplog: pytest.LogCaptureFixture) -> None:
    host = boot(ONE_NODE)
    host.configure(memory_mib=31, cpu_count=2)
    host.simulation.task(6)
    host.simulation.task(5, 6)
    caplog.set_level("INFO")
    host.start()
    told = {record.__dict__["MESSAGE_ID"]: record.getMessage() for record in caplog.records}
    assert told == {
        MEMORY_ROUNDED["MESSAGE_ID"]: "memory_mib: 31 MiB rounded up to 32 MiB, whole 2M pages",
        TASK_DISPLACED["MESSAGE_ID"]: (
            "task worker[700] may run on CPU 6 only, all in the pool: the kernel moves it to others, and not back later"
        ),
    }


def test_cores_without_memory_of_their_node_are_told(boot: Boot, caplog: pytest.LogCaptureFixture) -> None:
    host = boot(NO_MEMORY_ON_NODE_1)
    host.configure(memory_mib=64, cpu_count=6, max_enclaves=2)
    host.start()
    assert "CPUs 4-7 of node 1 can run no enclave: no memory of that node is in the pool" in caplog.text


SHORTEST = "the shortest file is two lines: memory_mib: 1024 and cpu_count: 2"


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOENT, SHORTEST),
        (errno.EISDIR, "wanted a file: name it, or remove the directory that is in its place"),
        (errno.EACCES, "it must be readable for who reads it, and root is who serves: ls -l allocator.yaml"),
        (errno.EMFILE, "the file itself may be right: mend what is in the way of reading it, then try again"),
        (errno.EIO, "the file itself may be right: mend what is in the way of reading it, then try again"),
    ],
)
def test_a_file_that_cannot_be_read_is_not_always_at_fault(
    number: int, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigUnreadable) as refused:
        read_file(Path("allocator.yaml"))
    assert str(refused.value) == f"cannot read allocator.yaml: {os.strerror(number)}; nothing was changed\n  ({hint})"


def test_where_there_is_no_file_the_shortest_is_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigUnreadable) as refused:
        read_file(tmp_path / "absent")
    assert refused.value.hint() == SHORTEST


def test_of_a_directory_the_file_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigUnreadable) as refused:
        read_file(tmp_path)
    assert refused.value.hint() == "wanted a file: name it, or remove the directory that is in its place"
