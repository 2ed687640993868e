"""The pool as OpenMetrics text, for the textfile collector of Prometheus' node exporter.

Only gauges and counters, so that parsers of the older text format of Prometheus read it too.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

STOPPED, SILENT = "stopped", "silent"
"""States that only an observer sees: nobody listens on the socket; somebody does, but gives no answer."""

STATES = ("starting", "ready", "degraded", "stopping", STOPPED, SILENT)
USES = ("kept", "host", "lendable", "pool", "leased")

Samples = Iterator[tuple[dict[str, str], int]]


def openmetrics(pool: dict[str, Any]) -> str:
    """Render a pool as GetPool answers it, or only its state where there is no answer: `{"state": "stopped"}`."""
    lines = list(_family("state", "gauge", "1 for the state that the service is in.", _states(pool["state"])))
    if "nodes" in pool:
        for name, kind, text, samples in _families(pool):
            lines += _family(name, kind, text, samples)
    return "\n".join([*lines, "# EOF", ""])


def _families(pool: dict[str, Any]) -> Iterator[tuple[str, str, str, Samples]]:
    yield "cores", "gauge", "Physical cores of a node by use.", _cores(pool)
    yield "hugepages", "gauge", "Hugepages of a node by use.", _hugepages(pool)
    yield "hugepages_asked", "gauge", "Hugepages of a node that the pool wants.", _asked(pool)
    yield "leases", "gauge", "Leases that exist.", _one(pool["leases"])
    yield "leases_limit", "gauge", "Leases that may exist at once.", _one((pool["config"] or {}).get("max_enclaves", 0))
    yield "drift", "gauge", "Differences between the pool and what the kernel shows.", _one(len(pool["drift"]))
    told = "Times that the kernel granted fewer hugepages than it was asked for."
    yield "short_grants", "counter", told, _one(pool["short_grants"])
    yield "refused_acquisitions", "counter", "Refused calls of Acquire by error.", _refusals(pool)


def _family(name: str, kind: str, text: str, samples: Samples) -> Iterator[str]:
    full = f"ali_enclaves_{name}"
    yield f"# TYPE {full} {kind}"
    yield f"# HELP {full} {text}"
    total = "_total" if kind == "counter" else ""
    for labels, value in samples:
        told = ",".join(f'{label}="{of}"' for label, of in sorted(labels.items()))
        yield f"{full}{total}{{{told}}} {value}" if told else f"{full}{total} {value}"


def _one(value: int) -> Samples:
    yield {}, value


def _states(state: str) -> Samples:
    for name in STATES:
        yield {"state": name}, int(name == state)


def _cores(pool: dict[str, Any]) -> Samples:
    for node in pool["nodes"]:
        found = Counter(core["use"] for core in node["cores"])
        for use in USES:
            yield {"node": str(node["node"]), "use": use}, found[use]


def _hugepages(pool: dict[str, Any]) -> Samples:
    for labels, pages in _sizes(pool):
        counts = {
            "pool": pages["free"],
            "leased": pages["leased"],
            "others": pages["others_total"] - pages["others_free"],
            "others_free": pages["others_free"],
        }
        for use, count in counts.items():
            yield labels | {"use": use}, count


def _asked(pool: dict[str, Any]) -> Samples:
    for labels, pages in _sizes(pool):
        yield labels, pages["asked"]


def _sizes(pool: dict[str, Any]) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    for node in pool["nodes"]:
        for pages in node["hugepages"]:
            yield {"node": str(node["node"]), "hugepage_size": pages["hugepage_size"]}, pages


def _refusals(pool: dict[str, Any]) -> Samples:
    for error, count in sorted(pool["refused_acquisitions"].items()):
        yield {"error": error}, count
