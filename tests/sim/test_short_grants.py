"""A node that grants fewer pages than it was asked for: compacted, then other nodes, or nothing at all."""

import errno

import pytest

from ali_enclaves_allocator.model.errors import (
    ShortGrant,
)
from tests.conftest import Boot
from tests.machines import (
    FOUR_NODES,
    GUEST_2X2X2,
    ONE_NODE,
)
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
