"""What `status` shows: the map of the machine, or what is left of a pool when no service runs."""

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from ali_enclaves_allocator.model.pool import Holder, Pool

COLOURS = {"host": "0", "kept": "2", "lendable": "32", "pool": "1;32", "leased": "1;33"}
"""SGR codes by the use of a core (ECMA-48)."""

LEGEND = {
    "kept": "stays with the host",
    "host": "the host's now",
    "lendable": "the host's until an enclave takes it",
    "pool": "free for an enclave",
    "leased": "an enclave's",
}
NOT_LENT = {"kept": LEGEND["kept"], "host": LEGEND["host"], "pool": "set aside; nothing is lent"}
"""The legend of a pool whose memory is not held."""


def map_of(pool: dict[str, Any], *, colour: bool) -> str:
    """Draw the pool as GetPool describes it. Every core is a cell that names its use, so colour adds nothing."""
    width = shutil.get_terminal_size().columns
    lines = [pool["summary"], "", *_mistakes(pool["reason"])]
    held = pool["config"] is None or pool["config"]["hold_memory"]
    uses = {core["use"] for node in pool["nodes"] for core in node["cores"]}
    legend = LEGEND if held else NOT_LENT | {use: LEGEND[use] for use in uses & {"leased"}}
    for node in pool["nodes"]:
        lines.append(f"node {node['node']}: {node['memory_mib']} MiB, {node['available_mib']} MiB available")
        lines.extend(_cores(node["cores"], width, colour))
        lines.extend(
            f"  {_pages(pages, held)}" for pages in node["hugepages"] if pages["asked"] or pages["others_total"]
        )
        if _has_cores(node) and not any(pages["asked"] for pages in node["hugepages"]):
            lines.append("  no memory of this node is in the pool: its cores can run no enclave")
    lines += ["", "  ".join(f"{_paint(use, use, colour)}: {meaning}" for use, meaning in legend.items())]
    lines += [f"drift: {entry['what']}: {entry['got']}, wanted {entry['wanted']}" for entry in pool["drift"]]
    return "\n".join([*lines, *_what_to_do(pool)])


def _what_to_do(pool: dict[str, Any]) -> Iterator[str]:
    """Say how a pool that is degraded becomes ready."""
    if pool["drift"]:
        yield "to mend it: systemctl restart ali-enclaves-allocator"
    elif pool["state"] == "degraded":
        yield "why, and what to do: journalctl -x -u ali-enclaves-allocator"


def remains_of(pool: "Pool", alive: "Callable[[Holder], bool]") -> str:
    """Say what is still set aside, for whom, and how it comes back to the host; empty if nothing is."""
    if not pool.cores and not pool.shares:
        return ""
    what = f"set aside still: {pool.describe()}"
    if not pool.leases:
        return f"{what}, for no lease\n  (to give it back: ali-enclaves-allocator give-back)"
    leases = ", ".join(lease.describe() for lease in pool.leases)
    living = [lease for lease in pool.leases if alive(lease.holder)]
    if not living:
        return f"{what}, for {leases}, which ended\n  (to give it back: ali-enclaves-allocator give-back)"
    scopes = " ".join(f"evm-{lease.id}.scope" for lease in living)
    pids = " ".join(str(lease.holder.pid) for lease in living)
    way = "it is given back when they end; where the package was removed meanwhile: ali-enclaves-allocator give-back"
    return f"{what}, for {leases}\n  ({way}; to end them: systemctl stop {scopes}, or as their user: kill {pids})"


def _has_cores(node: dict[str, Any]) -> bool:
    """Tell whether cores of a node are in the pool."""
    return any(core["use"] in ("pool", "lendable") for core in node["cores"])


def _mistakes(reason: str | None) -> list[str]:
    """Tell all mistakes of a refused file where they are; of what takes one line the summary has it."""
    lines = (reason or "").splitlines()
    return [*lines, ""] if len(lines) > 1 else []


def _cores(cores: list[dict[str, Any]], width: int, colour: bool) -> Iterator[str]:
    """Lay the cells of one node out in rows."""
    labels = [(f"[{' '.join(map(str, core['cpus']))} {core['use']}]", core["use"]) for core in cores]
    widest = max((len(label) for label, _ in labels), default=0)
    per_row = max(1, (width - 2) // (widest + 1))
    for start in range(0, len(labels), per_row):
        row = labels[start : start + per_row]
        yield "  " + " ".join(_paint(f"{label:<{widest}}", use, colour) for label, use in row).rstrip()


def _pages(pages: dict[str, Any], held: bool) -> str:
    """Say in one line whose the pages of one size are; what is not held, anybody can take."""
    whom = "enclaves" if held else "any program"
    return (
        f"{pages['hugepage_size']} pages: pool {pages['granted']} of {pages['asked']}"
        f" ({pages['leased']} leased, {pages['free']} free for {whom})"
        f"; other programs {pages['others_total']} ({pages['others_free']} free)"
    )


def _paint(text: str, use: str, colour: bool) -> str:
    return f"\x1b[{COLOURS[use]}m{text}\x1b[0m" if colour else text
