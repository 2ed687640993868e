"""Scenarios: from one configuration to another, on a machine on which others own pages too."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.machines import (
    DUAL_SOCKET_HT,
    FOUR_NODES,
    GUEST_2X2X2,
    NO_MEMORY_ON_NODE_1,
    NO_NUMA,
    NO_SMT,
    NODE_HOLES,
    OLDER_NODES,
    ONE_CORE_LEFT,
    Machine,
)
from tests.sim.host import Host
from tests.sim.kernel import Simulation

Keys = Mapping[str, Any]


@dataclass(frozen=True)
class Scenario:
    """A change of the pool: `before` stands already, `after` is brought into force. None is no pool."""

    machine: Machine
    before: Keys | None
    after: Keys | None

    def prepare(self, boot: Callable[[Machine], Host]) -> Host:
        """Boot, let others settle, bring `before` into force, and write the file for `after`."""
        host = boot(self.machine)
        host.simulation.driver.loaded = True
        crowd(host.simulation)
        host.settle()
        if self.before is not None:
            host.configure(**self.before)
            host.start()
        if self.after is not None:
            host.configure(**self.after)
        return host

    def run(self, host: Host) -> None:
        """Bring `after` into force."""
        if self.after is None:
            host.give_back()
        else:
            host.start()


def crowd(simulation: Simulation) -> None:
    """Give every node other programs' pages: idle ones, ones in use, and surplus."""
    for number, node in enumerate(simulation.memory):
        simulation.set_by_hand(node, 5 + number)
        simulation.use(node, 5 + number)
    small = simulation.pages[2048]
    small.overcommit = 2 * len(simulation.memory)
    for node in list(simulation.memory)[::2]:
        simulation.use(node, 2)
    for node in list(simulation.memory)[1::2]:
        simulation.set_by_hand(node, simulation.counts(node).total + 3)


@contextmanager
def at(**where: object) -> Iterator[None]:
    """Name the point of a crash in the report of a failed check."""
    try:
        yield
    except BaseException as failure:
        failure.add_note(", ".join(f"{name}: {value}" for name, value in where.items()))
        raise


SMALL = {"memory_mib": 64, "cpu_count": 2}
LARGE = {"memory_mib": 96, "cpu_count": 4}
DRIVER = {"cpu_driver": "nitro_enclaves"}
LEASED = {"offline": "leased"}
LOOSE = {"hold_memory": False}

SCENARIOS = {
    "apply": Scenario(GUEST_2X2X2, None, SMALL),
    "apply on N and N+half": Scenario(DUAL_SOCKET_HT, None, {"memory_mib": 31, "cpu_count": 6}),
    "apply without SMT": Scenario(NO_SMT, None, {"memory_mib": 64, "cpu_count": 3}),
    "apply on the last core": Scenario(ONE_CORE_LEFT, None, SMALL),
    "apply over nodes": Scenario(FOUR_NODES, None, {"memory_mib": 50, "cpu_count": 8, "max_enclaves": 2}),
    "apply without NUMA": Scenario(NO_NUMA, None, LARGE),
    "apply where a node has no memory": Scenario(
        NO_MEMORY_ON_NODE_1, None, {"memory_mib": 64, "cpu_count": 6, "max_enclaves": 2}
    ),
    "apply in 1G": Scenario(NODE_HOLES, None, {"memory_mib": 1500, "cpu_count": 2, "hugepage_size": "1G"}),
    "apply over nodes before Linux 6.7": Scenario(
        OLDER_NODES, None, {"memory_mib": 50, "cpu_count": 8, "max_enclaves": 2}
    ),
    "grow": Scenario(DUAL_SOCKET_HT, SMALL, LARGE),
    "grow onto another node": Scenario(GUEST_2X2X2, SMALL, LARGE),
    "grow the memory": Scenario(GUEST_2X2X2, SMALL, SMALL | {"memory_mib": 80}),
    "grow over nodes": Scenario(FOUR_NODES, SMALL, {"memory_mib": 70, "cpu_count": 10, "max_enclaves": 3}),
    "shrink": Scenario(GUEST_2X2X2, LARGE, SMALL),
    "shrink the memory": Scenario(GUEST_2X2X2, SMALL, SMALL | {"memory_mib": 48}),
    "move": Scenario(
        DUAL_SOCKET_HT, {"memory_mib": 64, "cpu_pool": "7,15"}, {"memory_mib": 48, "cpu_pool": "1-3,9-11"}
    ),
    "to 1G": Scenario(GUEST_2X2X2, SMALL, SMALL | {"hugepage_size": "1G"}),
    "to 2M": Scenario(GUEST_2X2X2, SMALL | {"hugepage_size": "1G"}, SMALL),
    "give back": Scenario(GUEST_2X2X2, LARGE, None),
    "give back over nodes": Scenario(FOUR_NODES, {"memory_mib": 50, "cpu_count": 8, "max_enclaves": 2}, None),
    "give back over nodes before Linux 6.7": Scenario(
        OLDER_NODES, {"memory_mib": 50, "cpu_count": 8, "max_enclaves": 2}, None
    ),
    "apply for leases": Scenario(GUEST_2X2X2, None, LARGE | LEASED),
    "offline for leases alone": Scenario(GUEST_2X2X2, LARGE, SMALL | LEASED),
    "offline for good": Scenario(GUEST_2X2X2, SMALL | LEASED, LARGE),
    "apply loosely": Scenario(FOUR_NODES, None, {"memory_mib": 50, "cpu_count": 8, "max_enclaves": 2} | LOOSE),
    "let go of the pages": Scenario(GUEST_2X2X2, SMALL, LARGE | LOOSE),
    "let go of all the same pages": Scenario(GUEST_2X2X2, SMALL, SMALL | LOOSE),
    "hold the pages": Scenario(GUEST_2X2X2, LARGE | LOOSE, SMALL),
    "shrink what is not held": Scenario(GUEST_2X2X2, SMALL | LOOSE, SMALL | LOOSE | {"memory_mib": 48}),
    "apply with the driver": Scenario(GUEST_2X2X2, None, SMALL | DRIVER),
    "to the driver": Scenario(DUAL_SOCKET_HT, LARGE, SMALL | DRIVER),
    "to the driver from the host": Scenario(GUEST_2X2X2, LARGE | LEASED, LARGE | DRIVER),
    "from the driver": Scenario(GUEST_2X2X2, LARGE | DRIVER, SMALL),
    "from the driver to the host": Scenario(GUEST_2X2X2, SMALL | DRIVER, SMALL | LEASED),
    "other CPUs of the driver": Scenario(
        DUAL_SOCKET_HT, {"memory_mib": 64, "cpu_pool": "7,15"} | DRIVER, {"memory_mib": 48, "cpu_pool": "1,9"} | DRIVER
    ),
    "give back from the driver": Scenario(GUEST_2X2X2, LARGE | DRIVER, None),
}
