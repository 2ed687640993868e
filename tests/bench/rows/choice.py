"""The plan against exhaustive search, on random machines: is one found whenever there is one, with the least left over?

What is left over are the CPUs of the chosen nodes that no enclave of the pool can use, and the host gets.
"""

import random

from ali_enclaves_allocator.model.config import Config
from ali_enclaves_allocator.model.errors import AllocatorError
from ali_enclaves_allocator.model.plan import choose
from ali_enclaves_allocator.model.pool import Pool
from ali_enclaves_allocator.model.topology import Core, Topology
from tests.bench.figures import Figure, Result, Target
from tests.bench.row import Options
from tests.machines import Machine
from tests.pure.exhaustive import best_nodes, free_cores

MACHINES = 10_000
MOST_CORES = 16
MOST_NODES = 4
SEED = 7
WHOLE = Target("≥", 100)


def measure(_options: Options) -> Result:
    """Try every machine."""
    dice = random.Random(SEED)
    possible = found = least = 0
    for _ in range(MACHINES):
        asked, topology = _request(dice)
        best = best_nodes(asked, topology, Pool())
        if best is None or not _host_keeps_enough(topology, asked):
            continue
        possible += 1
        try:
            plan = choose(asked, topology, Pool())
        except AllocatorError:
            continue
        found += 1
        nodes = {core.node for core in plan.cores}
        least += _left_over(topology, nodes, asked) == _left_over(topology, set(best), asked)
    against = f"exhaustive search, {MACHINES} random machines to {MOST_CORES} cores and {MOST_NODES} nodes"
    return Result(
        [
            _share("plan found when one exists", against, found, possible),
            _share("the plan leaves least over", against, least, possible),
        ]
    )


def _share(work: str, against: str, part: int, whole: int) -> Figure:
    return Figure(work, against, 100 * part / whole, "%", target=WHOLE, note=f"{part} of {whole}")


def _host_keeps_enough(topology: Topology, asked: Config) -> bool:
    """Tell whether `host_memory_mib` stays, which the search by nodes does not look at."""
    return topology.available_kib - 1024 * asked.memory_mib >= 1024 * asked.host_memory_mib


def _left_over(topology: Topology, nodes: set[int], asked: Config) -> int:
    """Return the free CPUs of nodes beyond what is asked."""
    return sum(len(core.cpus) for core in free_cores(topology) if core.node in nodes) - (asked.cpu_count or 0)


def _request(dice: random.Random) -> tuple[Config, Topology]:
    """Invent a machine, some CPUs of it offline or set apart, and a request that it may just about grant."""
    threads = dice.choice((1, 2, 2))
    nodes = dice.randint(1, MOST_NODES)
    places = sorted(dice.randrange(nodes) for _ in range(dice.randint(1, MOST_CORES)))
    cores = tuple(
        Core(tuple(range(threads * number, threads * (number + 1))), node) for number, node in enumerate(places)
    )
    machine = Machine(
        cores,
        {node: dice.choice((0, 128, 256, 1024)) for node in range(nodes)},
        offline=frozenset(cpu for cpu in range(1, threads * len(cores)) if dice.random() < 0.05),
        isolated=frozenset(cpu for cpu in range(threads * len(cores)) if dice.random() < 0.03),
        smt_control="on" if threads > 1 else "notsupported",
    )
    asked = Config.model_validate(
        {
            "memory_mib": dice.choice((2, 64, 200, 500, 1500)),
            "cpu_count": threads * dice.randint(1, max(1, len(cores) - 1)),
            "max_enclaves": dice.randint(1, MOST_NODES),
            "host_memory_mib": 64,
        }
    )
    return asked, machine.topology()
