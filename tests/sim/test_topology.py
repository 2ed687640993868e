"""The door to /sys against the machines it must read."""

import pytest

from ali_enclaves_allocator.model.pool import Bank, Pool, Share
from ali_enclaves_allocator.model.topology import NO_PAGES, Core, Topology
from tests.machines import (
    ALL_TORN,
    BOOTABLE,
    GUEST_2X2X2,
    MIXED_SMT,
    NO_MEMORY_ON_NODE_1,
    NO_NUMA,
    NODE_HOLES,
    TORN_CORES,
    Machine,
)
from tests.sim.kernel import SimFiles, Simulation


@pytest.mark.parametrize("machine", BOOTABLE.values(), ids=BOOTABLE)
def test_reads_each_machine_as_it_is(machine: Machine) -> None:
    assert Simulation(machine).kernel.topology(Pool()) == machine.topology()


@pytest.mark.parametrize("machine", BOOTABLE.values(), ids=BOOTABLE)
def test_a_pool_is_read_as_if_it_were_given_back(machine: Machine) -> None:
    simulation = Simulation(machine)
    plain = simulation.kernel.topology(Pool())
    free = [core for core in plain.cores if not plain.fixed_cpus & set(core.cpus) and core != plain.host_core]
    core = max(core for core in free if machine.memory_mib[core.node])
    bank = Bank("bank0", core.node, 2048, 16)
    simulation.set_by_hand(core.node, 16)
    simulation.kernel.banks.mount(bank)
    simulation.kernel.banks.settle(bank, {})
    for cpu in core.cpus:
        simulation.kernel.sysfs.set_online(cpu, False)

    topology = simulation.kernel.topology(Pool((core,), (bank,), (Share(core.node, 2048, 16),)))

    assert topology.cores == plain.cores
    assert topology.available_kib == plain.available_kib
    assert [node.available_kib for node in topology.nodes] == [node.available_kib for node in plain.nodes]
    assert topology.node(core.node).pages[2048].in_use == 16


def test_siblings_of_an_offline_cpu_are_those_still_online() -> None:
    cores = Simulation(TORN_CORES).kernel.topology(Pool()).cores
    assert cores == (Core((0, 1), 0), Core((2,), 0), Core((4, 5), 0), Core((6,), 0))


def test_a_core_of_the_pool_that_somebody_brought_half_online_is_still_that_core() -> None:
    simulation = Simulation(GUEST_2X2X2)
    pool = Pool((Core((6, 7), 1),))
    simulation.set_online(6, False)
    assert simulation.kernel.topology(pool).cores == GUEST_2X2X2.topology().cores


def test_a_cpu_that_goes_offline_while_it_is_read_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = Simulation(GUEST_2X2X2)
    read = SimFiles.read

    def read_late(files: SimFiles, path: str) -> str:
        if path.endswith("cpu5/topology/thread_siblings_list"):
            simulation.set_online(5, False)
        return read(files, path)

    monkeypatch.setattr(SimFiles, "read", read_late)
    assert Core((4, 5), 1) in simulation.kernel.topology(Pool()).cores
    assert 5 not in simulation.online


def test_nodes_may_have_holes_and_no_cpus() -> None:
    topology = Simulation(NODE_HOLES).kernel.topology(Pool())
    assert [node.id for node in topology.nodes] == [0, 2, 3, 5]
    assert topology.node(3).cores == ()


def test_without_numa_all_is_one_node() -> None:
    simulation = Simulation(NO_NUMA)
    sysfs = simulation.kernel.sysfs
    sysfs.set_pages(0, 2048, 7)
    assert (sysfs.nodes(), sysfs.pages(0, 2048).total, simulation.counts(0).total) == ((0,), 7, 7)
    sysfs.compact(0)
    assert simulation.kernel.sight(Pool(), [2048]).pages[0, 2048].total == 7


def test_a_node_without_memory_has_no_pages() -> None:
    kernel = Simulation(NO_MEMORY_ON_NODE_1).kernel
    assert kernel.topology(Pool()).node(1).pages == {}
    assert (kernel.sysfs.page_sizes(1), kernel.sysfs.pages(1, 2048)) == ((), NO_PAGES)
    assert set(kernel.sight(Pool(), [2048]).pages) == {(0, 2048)}


def test_cpus_that_others_took_offline_tear_cores_unless_smt_is_off() -> None:
    simulation = Simulation(TORN_CORES)
    assert simulation.kernel.topology(Pool()).torn_cores == {Core((2,), 0), Core((6,), 0)}
    simulation.smt_control = "forceoff"
    assert simulation.kernel.topology(Pool()).torn_cores == frozenset()
    assert Simulation(ALL_TORN).kernel.topology(Pool()).torn_cores == {Core((cpu,), 0) for cpu in (0, 2, 4, 6)}
    assert Simulation(MIXED_SMT).kernel.topology(Pool()).torn_cores == frozenset(), "narrow, but none is offline"
    pool = Pool((Core((6, 7), 1),))
    simulation = Simulation(GUEST_2X2X2)
    simulation.online -= pool.cpus
    assert simulation.kernel.topology(pool).node(1).offline == frozenset(), "what the pool has is no others' doing"


@pytest.mark.parametrize(
    ("control", "smt"), [("on", True), ("off", False), ("notimplemented", False), ("8", True), ("1", False)]
)
def test_smt_in_every_word_of_the_kernel(control: str, smt: bool) -> None:
    simulation = Simulation(GUEST_2X2X2)
    simulation.smt_control = control
    assert simulation.kernel.topology(Pool()).smt == smt


def test_an_unplugged_core_of_the_pool_is_none_of_the_machine() -> None:
    simulation = Simulation(GUEST_2X2X2)
    pool = Pool((Core((4, 5), 1), Core((6, 7), 1)))
    simulation.online -= pool.cpus
    simulation.unplug(7)
    assert Core((6, 7), 1) not in simulation.kernel.topology(pool).cores
    assert Core((4, 5), 1) in simulation.kernel.topology(pool).cores
    assert simulation.kernel.sight(pool).gone == {7}
    simulation.plug(7)
    assert simulation.kernel.topology(pool).cores == GUEST_2X2X2.topology().cores
    assert simulation.kernel.sight(pool).gone == frozenset()


def test_page_cache_counts_as_available() -> None:
    simulation = Simulation(GUEST_2X2X2)
    simulation.memory[1].free_kib -= 4096
    simulation.memory[1].cache_kib += 4095
    topology: Topology = simulation.kernel.topology(Pool())
    assert topology.node(1).available_kib == 4096 * 1024 - 1
    assert topology.available_kib == 2 * 4096 * 1024 - 1


def test_sight_shows_every_node_in_the_sizes_asked_for() -> None:
    simulation = Simulation(NODE_HOLES)
    simulation.set_by_hand(2, 3)
    pool = Pool(shares=(Share(0, 2048, 1),))
    assert set(simulation.kernel.sight(pool).pages) == {(node, 2048) for node in (0, 2, 3, 5)}
    assert simulation.kernel.sight(pool).pages[2, 2048].total == 3
    assert set(simulation.kernel.sight(Pool()).pages) == set()
    assert set(simulation.kernel.sight(Pool(), [1 << 20]).pages) == {(node, 1 << 20) for node in (0, 2, 3, 5)}


def test_without_compaction_in_the_kernel_compacting_is_no_error() -> None:
    Simulation(GUEST_2X2X2).kernel.sysfs.compact(9)
