"""What the kernel refuses: the error says it, and the machine is as it was."""

import errno

import pytest

from ali_enclaves_allocator.model.errors import (
    CpuRefused,
    KernelRefused,
    NotGivenBack,
    PagesTaken,
)
from tests.conftest import Boot
from tests.machines import (
    GUEST_2X2X2,
    ONE_NODE,
)
from tests.sim.scenarios import SCENARIOS


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


SILENT = (
    "  (does systemd hang? see: systemctl status, journalctl -b _PID=1; once it answers, see the pool's "
    "state: ali-enclaves-allocator status, and mend it by a restart of the service)"
)


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.EIO, "Input/output error; all changes undone"),
        (errno.ETIMEDOUT, f"Connection timed out; all changes undone\n{SILENT}"),
        (errno.ECONNRESET, f"Connection reset by peer; all changes undone\n{SILENT}"),
    ],
)
def test_a_systemd_that_does_not_answer_is_not_one_that_refuses(number: int, told: str, boot: Boot) -> None:
    host = SCENARIOS["apply"].prepare(boot)
    host.effects.fail("mount bank0", number)
    with pytest.raises(KernelRefused) as refused:
        host.start()
    assert str(refused.value).endswith(f" in bank0: {told}")
    assert refused.value.parameters()["silent"] is (number != errno.EIO)
    host.assert_untouched()
