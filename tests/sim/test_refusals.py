"""What the kernel refuses: the error says it, and the machine is as it was."""

import errno
import os
from pathlib import Path

import pytest

from ali_enclaves_allocator.line import read_file
from ali_enclaves_allocator.model.config import ConfigInvalid
from ali_enclaves_allocator.model.errors import (
    ConfigUnreadable,
    CpuRefused,
    KernelRefused,
    NotGivenBack,
    PagesTaken,
    ShortGrant,
)
from ali_enclaves_allocator.model.events import MEMORY_ROUNDED, TASK_DISPLACED
from ali_enclaves_allocator.model.placement import NoNodeFits
from ali_enclaves_allocator.model.pool import Pool
from tests.conftest import Boot
from tests.machines import (
    DUAL_SOCKET_HT,
    FOUR_NODES,
    GUEST_2X2X2,
    NO_MEMORY_ON_NODE_1,
    NOSMT,
    ONE_NODE,
    TORN_CORES,
    Machine,
)
from tests.sim.effects import Died
from tests.sim.host import Host
from tests.sim.scenarios import LARGE, SCENARIOS, SMALL

MIB = 1024


def test_scattered_memory_is_compacted_and_asked_for_again(boot: Boot) -> None:
    host = SCENARIOS["apply"].prepare(boot)
    memory = host.simulation.memory[0]
    memory.scattered_kib = memory.free_kib - 20 * 2 * MIB
    host.start()
    host.assert_pool_stands()
    assert [name.rpartition("/")[2] for name in host.done[1:4]] == ["nr_hugepages", "compact", "nr_hugepages"]


@pytest.mark.parametrize(
    ("size", "error"),
    [
        (
            "2M",
            "cannot reserve: kernel granted 20 of 32 2M pages on node 0; all changes undone\n"
            "  (memory is in pieces: enable the service, so that it starts at boot, when least is, or ask for less)",
        ),
        (
            "1G",
            "cannot reserve: kernel granted 0 of 1 1G pages on node 0; all changes undone\n"
            "  (memory is in pieces: enable the service, so that it starts at boot, when least is, "
            "or use hugepage_size: 2M)",
        ),
    ],
)
def test_a_short_grant_is_taken_back(size: str, error: str, boot: Boot) -> None:
    host = SCENARIOS["apply"].prepare(boot)
    host.configure(memory_mib=64, cpu_pool="2-3", hugepage_size=size)
    scatter(host, 0, room_mib=40)
    with pytest.raises(ShortGrant) as refused:
        host.start()
    assert str(refused.value) == error
    assert sum(name.endswith("compact") for name in host.done) == 3
    host.assert_untouched()


def scatter(host: Host, node: int, room_mib: int) -> None:
    """Leave a node only so much memory in pieces that hugepages can be made of."""
    memory = host.simulation.memory[node]
    memory.scattered_kib = memory.stuck_kib = memory.free_kib - room_mib * MIB


def test_a_short_grant_costs_no_standing_pool(boot: Boot) -> None:
    host = boot(ONE_NODE)
    host.configure(**SMALL)
    host.start()
    former = host.record.pool
    host.configure(**LARGE)
    scatter(host, 0, room_mib=10)
    with pytest.raises(ShortGrant) as refused:
        host.start()
    assert (refused.value.granted, refused.value.wanted) == (5, 16)
    host.assert_pool_stands()
    assert host.record.pool == former


@pytest.mark.parametrize(
    ("keys", "cpus", "pages"),
    [
        ({"cpu_count": 2}, {6, 7}, {1: 32}),
        ({"cpu_count": 6, "max_enclaves": 2}, {2, 3, 4, 5, 6, 7}, {0: 8, 1: 24}),
    ],
)
def test_after_a_short_grant_other_nodes_are_tried(
    keys: dict[str, int], cpus: set[int], pages: dict[int, int], boot: Boot, caplog: pytest.LogCaptureFixture
) -> None:
    host = boot(GUEST_2X2X2)
    host.configure(memory_mib=64, **keys)
    scatter(host, 0, room_mib=16)
    host.start()
    host.assert_pool_stands()
    assert host.record.pool.cpus == cpus
    assert {bank.node: bank.pages for bank in host.record.pool.banks} == pages
    assert "2M pages on node 0; trying with that, and with more of other nodes" in caplog.text
    host.start()
    assert host.done == [], "it stays where it is"


def test_where_every_node_falls_short_the_first_one_is_told(boot: Boot) -> None:
    host = boot(FOUR_NODES)
    host.configure(memory_mib=64, cpu_count=4)
    for node in range(4):
        scatter(host, node, room_mib=16)
    with pytest.raises(ShortGrant, match="8 of 32 2M pages on node 1; all changes undone"):
        host.start()
    assert {name.split("/")[3] for name in host.done if name.endswith("compact")} == {"node1", "node2", "node3"}
    host.assert_untouched()


def test_a_short_grant_that_could_not_be_undone_is_the_last(boot: Boot) -> None:
    host = boot(GUEST_2X2X2)
    host.configure(memory_mib=64, cpu_count=2)
    scatter(host, 0, room_mib=16)
    host.effects.fail("write 0 to devices/system/node/node0", errno.EPERM)
    with pytest.raises(ShortGrant, match="could not undo"):
        host.start()
    assert not any("node1" in name for name in host.done)


@pytest.mark.parametrize(("held", "written"), [(2, 1), (3, 2)])
def test_a_deadline_task_keeps_its_cpu(held: int, written: int, boot: Boot) -> None:
    host = SCENARIOS["apply"].prepare(boot)
    host.simulation.deadline_task(held)
    with pytest.raises(CpuRefused) as refused:
        host.start()
    assert str(refused.value) == (
        f"cannot take CPU {held} offline: Device or resource busy, held by drumbeat[700]; all changes undone\n"
        "  (a SCHED_DEADLINE task reserves its CPUs: stop it or change its policy (chrt))"
    )
    assert sum(name.startswith("write 0") for name in host.done) == written
    host.assert_untouched()


def test_what_cannot_be_undone_is_named_and_undone_by_the_next_start(boot: Boot) -> None:
    host = SCENARIOS["apply"].prepare(boot)
    host.effects.fail("write 0 to devices/system/cpu/cpu3", errno.EBUSY)
    host.effects.fail("write 1 to devices/system/cpu/cpu2", errno.EIO)
    with pytest.raises(CpuRefused) as refused:
        host.start()
    assert str(refused.value) == (
        "cannot take CPU 3 offline: Device or resource busy; "
        "could not undo: cannot take CPU 2 online: Input/output error"
    )
    assert host.state.online == host.origin.online - {2}
    assert host.state.pages == host.origin.pages, "the rest is undone"
    host.start()
    host.assert_pool_stands()


def test_a_bank_that_cannot_be_unmounted_is_tried_again(boot: Boot) -> None:
    host = SCENARIOS["give back"].prepare(boot)
    host.effects.fail("unmount", errno.EBUSY)
    with pytest.raises(NotGivenBack) as refused:
        host.give_back()
    assert str(refused.value) == (
        "cannot give back all that the pool no longer needs: cannot drop 48×2M on node 1 in bank0: "
        "Device or resource busy; the ledger keeps it, and the next start or restart tries again"
    )
    assert host.state.online == host.origin.online, "the rest is given back"
    host.give_back()
    host.assert_untouched()


def test_a_mount_that_is_refused(boot: Boot) -> None:
    host = SCENARIOS["apply"].prepare(boot)
    host.effects.fail("mount", errno.EPERM)
    with pytest.raises(KernelRefused) as refused:
        host.start()
    assert str(refused.value) == ("cannot hold 32×2M on node 0 in bank0: Operation not permitted; all changes undone")
    host.assert_untouched()


def test_pages_that_run_short_while_the_bank_is_filled(boot: Boot) -> None:
    """The mount reserved a count; the pages of this node went to somebody, those of another node are there."""
    host = SCENARIOS["apply"].prepare(boot)
    host.simulation.pages[2048].overcommit = 0
    host.effects.after("mount", lambda: took.append(host.simulation.use(0, 10)))
    took: list[int] = []
    with pytest.raises(PagesTaken) as refused:
        host.start()
    assert took == [3], "no more than the idle pages of node 1: the rest is reserved"
    assert str(refused.value) == (
        "cannot hold the pool's pages: got 29 of 32 2M pages on node 0; all changes undone\n"
        "  (other programs took hugepages at the same moment; try again)"
    )
    host.simulation.release(0, 3)
    host.assert_untouched()


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


def test_a_cpu_that_was_unplugged_need_not_come_back(boot: Boot) -> None:
    host = boot(DUAL_SOCKET_HT)
    host.configure(**SMALL)
    host.start()
    gone = max(host.record.pool.cpus)
    host.effects.fail(f"write 1 to devices/system/cpu/cpu{gone}", errno.ENOENT)
    host.give_back()
    assert host.state.online == host.origin.online - {gone}
    assert host.record.pool.cpus == frozenset()


def test_a_cpu_that_others_took_offline_stays_so_and_its_core_with_the_host(boot: Boot) -> None:
    host = boot(TORN_CORES)
    host.configure(memory_mib=64, cpu_count=2)
    host.start()
    assert host.record.pool.cpus == {4, 5}
    host.configure(memory_mib=64, cpu_count=4)
    with pytest.raises(NoNodeFits, match="CPUs 2,6 stay with the host"):
        host.start()
    host.assert_pool_stands()
    host.give_back()
    host.assert_untouched()


def test_cores_without_memory_of_their_node_are_told(boot: Boot, caplog: pytest.LogCaptureFixture) -> None:
    host = boot(NO_MEMORY_ON_NODE_1)
    host.configure(memory_mib=64, cpu_count=6, max_enclaves=2)
    host.start()
    assert "CPUs 4-7 of node 1 can run no enclave: no memory of that node is in the pool" in caplog.text


def test_nosmt_leaves_the_siblings_offline(boot: Boot) -> None:
    host = boot(NOSMT)
    host.configure(memory_mib=64, cpu_count=3)
    host.start()
    assert host.record.pool.cpus == {1, 2, 3}
    host.assert_pool_stands()
    host.give_back()
    host.assert_untouched()


def test_a_core_that_was_unplugged_is_replaced_at_the_next_start(boot: Boot) -> None:
    host = boot(ONE_NODE)
    host.configure(memory_mib=64, cpu_count=4)
    host.start()
    assert host.record.pool.cpus == {4, 5, 6, 7}
    host.simulation.unplug(6, 7)
    host.start()
    assert host.record.pool.cpus == {2, 3, 4, 5}
    assert host.state.online == {0, 1}
    host.simulation.plug(6, 7)
    host.give_back()
    assert host.state.online == host.origin.online - {6, 7}, "what was put back comes up by whoever put it back"


def test_a_bank_whose_node_was_unplugged_is_given_back_without_it(boot: Boot) -> None:
    host = boot(GUEST_2X2X2)
    host.configure(memory_mib=64, cpu_pool="6-7")
    host.start()
    del host.simulation.mounts["bank0"]
    del host.simulation.memory[1]
    for pages in host.simulation.pages.values():
        del pages.nodes[1]
    host.simulation.unplug(4, 5, 6, 7)
    host.give_back()
    assert host.record.pool == Pool()
    assert host.state.online == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("machine", "cpus"), [(ONE_NODE, {6, 7}), (NO_MEMORY_ON_NODE_1, {6, 7})], ids=["more", "first"]
)
def test_memory_that_is_plugged_in_can_be_had(machine: Machine, cpus: set[int], boot: Boot) -> None:
    host = boot(machine)
    host.configure(memory_mib=5000, cpu_count=2)
    with pytest.raises(NoNodeFits):
        host.start()
    memory = host.simulation.memory[max(machine.memory_mib)]
    memory.total_kib += 6 * 1024 * MIB
    memory.free_kib += 6 * 1024 * MIB
    host.settle()
    host.start()
    assert host.record.pool.cpus == cpus
    host.assert_pool_stands()
    host.give_back()
    host.assert_untouched()


def test_what_was_refused_before_keeps_nothing_else_from_being_given_back(boot: Boot) -> None:
    """As when a shell of root's stands in the directory of a bank."""
    host = boot(GUEST_2X2X2)
    host.configure(memory_mib=96, cpu_count=4)
    host.start()
    busy = host.record.pool.banks[0].name
    host.configure(memory_mib=64, cpu_pool="2-3")
    host.effects.fail(f"unmount {busy}", errno.EBUSY)
    with pytest.raises(NotGivenBack):
        host.start()
    standing = host.record.pool.banks
    assert [bank.name for bank in standing] != [busy]
    host.effects.fail(f"unmount {busy}", errno.EBUSY)
    with pytest.raises(NotGivenBack, match=busy):
        host.give_back()
    assert host.state.online == host.origin.online
    assert set(host.state.mounted) == {busy}
    host.give_back()
    host.assert_untouched()


def test_a_cpu_that_cannot_come_online_keeps_the_slice_until_it_can(boot: Boot) -> None:
    """The host would never run on a CPU again that is offline when its slice is dissolved (kernel/cpuset.py)."""
    host = boot(ONE_NODE)
    host.configure(memory_mib=64, cpu_count=2)
    host.start()
    host.take_back(host.lend(host.simulation.spawn(), online=True))
    cpu = max(host.record.pool.cpus)
    host.effects.fail(f"write 1 to devices/system/cpu/cpu{cpu}", errno.EIO)
    with pytest.raises(NotGivenBack, match=f"CPU {cpu} online"):
        host.give_back()
    assert host.simulation.partition.cpus, "the slice is still there"
    host.give_back()
    host.assert_untouched()


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.EIO, "Input/output error; all changes undone"),
        (
            errno.ETIMEDOUT,
            "Connection timed out; all changes undone\n"
            "  (does systemd hang? see: systemctl status, journalctl -b _PID=1; once it answers, see the pool's "
            "state: ali-enclaves-allocator status, and mend it by a restart of the service)",
        ),
    ],
)
def test_a_systemd_that_does_not_answer_is_not_one_that_refuses(number: int, told: str, boot: Boot) -> None:
    host = SCENARIOS["apply"].prepare(boot)
    host.effects.fail("mount bank0", number)
    with pytest.raises(KernelRefused) as refused:
        host.start()
    assert str(refused.value).endswith(f" in bank0: {told}")
    assert refused.value.parameters()["silent"] is (number == errno.ETIMEDOUT)
    host.assert_untouched()


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
