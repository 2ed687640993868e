"""Topology and plan on ever larger machines of the simulated sysfs: does the time grow as the machine does?"""

from ali_enclaves_allocator.model.config import Config
from ali_enclaves_allocator.model.plan import choose
from ali_enclaves_allocator.model.pool import Pool
from tests.bench.figures import Figure, Plot, Result, Target, exponent, seconds
from tests.bench.pairs import busy
from tests.bench.row import Options
from tests.machines import Machine, cores, machine
from tests.sim.kernel import Simulation

CPUS = (256, 512, 1024, 2048, 4096)
NODES = (4, 16, 64)
LINEAR = Target("≤", 1.1)
"""The largest exponent of growth that counts as linear: the steps are few, and a machine has other work."""

Point = tuple[float, float]


def measure(options: Options) -> Result:
    """Grow by CPUs, and at the largest number of CPUs by nodes."""
    curves = {f"{nodes} nodes": [_point(cpus, nodes, cpus, options) for cpus in CPUS] for nodes in NODES}
    figures = [_figure(f"on {name}, {CPUS[0]} … {CPUS[-1]} CPUs", points) for name, points in curves.items()]
    by_nodes = [_point(CPUS[-1], nodes, nodes, options) for nodes in (1, 2, 4, 8, 16, 32, 64)]
    figures.append(_figure(f"of {CPUS[-1]} CPUs, 1 … 64 nodes", by_nodes))
    plot = Plot("Topology and plan", "CPUs", "time, ms", _milliseconds(curves), logarithmic=True)
    more = Plot(
        f"Topology and plan of {CPUS[-1]} CPUs",
        "nodes",
        "time, ms",
        _milliseconds({"time": by_nodes}),
        logarithmic=True,
    )
    return Result(figures, {"cpus": plot, "nodes": more})


def _figure(what: str, points: list[Point]) -> Figure:
    """Return how the time grows."""
    note = f"{seconds(points[0][1])} … {seconds(points[-1][1])}"
    return Figure(f"topology + plan {what}", "itself", exponent(points), "(exponent)", target=LINEAR, note=note)


def _point(cpus: int, nodes: int, x: int, options: Options) -> Point:
    """Return the least processor time on one machine; the simulated files, which are a part of it, are linear."""
    kernel = Simulation(_machine(cpus, nodes)).kernel
    asked = Config(memory_mib=1024, cpu_count=cpus // 2, max_enclaves=nodes)
    times = [busy(lambda: choose(asked, kernel.topology(Pool()), Pool())) for _ in range(1 + options.pairs)]
    return float(x), min(times[1:])


def _machine(cpus: int, nodes: int) -> Machine:
    """Return a machine of two threads a core, siblings half of the machine apart, as firmware numbers them."""
    half, here = cpus // 2, cpus // 2 // nodes
    return machine(
        [cores(node, *((cpu, cpu + half) for cpu in range(node * here, (node + 1) * here))) for node in range(nodes)]
    )


def _milliseconds(curves: dict[str, list[Point]]) -> dict[str, list[Point]]:
    return {name: [(x, 1e3 * y) for x, y in points] for name, points in curves.items()}
