"""CPUs, cores and memory that come and go by others' hand."""

import errno

import pytest

from ali_enclaves_allocator.model.placement import NoNodeFits
from ali_enclaves_allocator.model.pool import Pool
from tests.conftest import Boot
from tests.machines import (
    DUAL_SOCKET_HT,
    GUEST_2X2X2,
    NO_MEMORY_ON_NODE_1,
    NOSMT,
    ONE_NODE,
    TORN_CORES,
    Machine,
)
from tests.sim.scenarios import SMALL

MIB = 1024


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
