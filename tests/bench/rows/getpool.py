"""GetPool over connections that stand, against the two Varlink libraries for Python serving the same reply."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from statistics import median

from tests.bench.clients import Clients
from tests.bench.figures import Figure, Pair, Plot, Result, Target, faster, ratio
from tests.bench.pairs import interleaved
from tests.bench.row import Options
from tests.bench.server import FLOOR, PEERS, reply_of, serving

CALLS = 2000
CLIENTS = (1, 3, 10, 30, 100, 200)
TARGETS = {1: Target("≥", 1.2), 100: Target("≥", 3.0)}


def measure(options: Options) -> Result:
    """Let all servers run, and ask them in turns."""
    with _servers() as paths:
        pairs = {number: _pairs(paths, number, options.pairs) for number in CLIENTS}
    figures = [_figure(number, pairs[number]) for number in TARGETS]
    times = {"ours": [(float(number), _median([pair.ours for pair in pairs[number][PEERS[0]]])) for number in CLIENTS]}
    for peer in (*PEERS, FLOOR):
        times[peer] = [(float(number), _median([pair.theirs for pair in pairs[number][peer]])) for number in CLIENTS]
    plot = Plot("GetPool", "clients, each with one call under way", "latency, ms", times, logarithmic=True)
    return Result(figures, {"getpool": plot})


@contextmanager
def _servers() -> Iterator[dict[str, str]]:
    """Run ours, and the peers with what it answers; yield their sockets."""
    with ExitStack() as stack:
        ours = stack.enter_context(serving("ours"))
        reply = reply_of(ours)
        paths = {"ours": ours} | {peer: stack.enter_context(serving(peer, reply)) for peer in (*PEERS, FLOOR)}
        for peer in PEERS:
            assert reply_of(paths[peer]) == reply
        yield paths


def _pairs(paths: dict[str, str], number: int, count: int) -> dict[str, list[Pair]]:
    """Return the pairs with each peer: seconds for one call, as a client waits for it."""
    with ExitStack() as stack:
        clients = {name: stack.enter_context(Clients(path, number)) for name, path in paths.items()}
        found = {}
        for peer in (*PEERS, FLOOR):
            pairs = interleaved(lambda: clients["ours"].calls(CALLS), lambda: clients[peer].calls(CALLS), count)  # noqa: B023
            found[peer] = [Pair(pair.ours * number / CALLS, pair.theirs * number / CALLS) for pair in pairs]
        return found


def _figure(number: int, pairs: dict[str, list[Pair]]) -> Figure:
    """Compare with the better peer."""
    better = min(PEERS, key=lambda peer: median(pair.theirs for pair in pairs[peer]))
    named = "one connection" if number == 1 else f"{number} connections"
    floor = median(
        faster([Pair(pair.theirs, other.theirs) for pair, other in zip(pairs[FLOOR], pairs[better], strict=True)])
    )
    note = f"a loop that only writes the same bytes: {floor:.3g} ×"
    against = f"`{better}`, the better peer"
    figure = ratio(f"GetPool, {named}", against, pairs[better], TARGETS[number], is_faster=True, note=note)
    return replace(figure, unit="× as fast")


def _median(values: list[float]) -> float:
    return median(values) * 1e3
