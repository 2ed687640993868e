"""What `status` shows, also of a pool whose service does not run."""

from dataclasses import replace
from typing import Any

from ali_enclaves_allocator.model.pool import Bank, Holder, Lease, Pool, Share
from ali_enclaves_allocator.model.topology import Core
from ali_enclaves_allocator.show import map_of, remains_of

CORE = Core((2, 3), 0)
LEASE = Lease("0123456789abcdef", "web", (CORE,), "bank0", 0, 2048, 96, True, Holder(7, 1, 0, 0, "qemu"), 0.0, {}, True)
LEFT = Pool((CORE,), (Bank("bank0", 0, 2048, 512),), (Share(0, 2048, 512),), leases=(LEASE,))


def test_nothing_remains_of_nothing() -> None:
    assert not remains_of(Pool(), lambda _: True)


def test_what_leases_hold_is_told_with_its_way_back() -> None:
    assert remains_of(LEFT, lambda _: True) == (
        "set aside still: CPUs 2-3 (1 core) on node 0, 1024 MiB in 512×2M, for web (CPUs 2-3, 192 MiB)\n"
        "  (it is given back when they end; where the package was removed meanwhile: ali-enclaves-allocator give-back; "
        "to end them: systemctl stop evm-0123456789abcdef.scope, or as their user: kill 7)"
    )


def test_who_has_ended_need_not_be_ended() -> None:
    assert remains_of(LEFT, lambda _: False).splitlines() == [
        "set aside still: CPUs 2-3 (1 core) on node 0, 1024 MiB in 512×2M, for web (CPUs 2-3, 192 MiB), which ended",
        "  (to give it back: ali-enclaves-allocator give-back)",
    ]


def test_so_is_what_a_crash_left() -> None:
    assert remains_of(replace(LEFT, leases=()), lambda _: True) == (
        "set aside still: CPUs 2-3 (1 core) on node 0, 1024 MiB in 512×2M, for no lease\n"
        "  (to give it back: ali-enclaves-allocator give-back)"
    )


def test_pages_that_are_not_held_are_anybodys() -> None:
    pages = {
        "hugepage_size": "2M",
        "asked": 8,
        "granted": 8,
        "leased": 0,
        "free": 6,
        "others_total": 0,
        "others_free": 0,
    }
    node = {"node": 0, "memory_mib": 64, "available_mib": 48, "cores": [], "hugepages": [pages]}
    pool = {"summary": "", "state": "ready", "reason": None, "nodes": [node], "drift": []}
    for hold, whom in ((True, "enclaves"), (False, "any program")):
        shown = map_of(pool | {"config": {"hold_memory": hold}}, colour=False)
        assert f"6 free for {whom})" in shown
        assert ("pool: free for an enclave" in shown, "pool: set aside; nothing is lent" in shown) == (hold, not hold)


def test_cores_that_no_enclave_can_use_are_told_of() -> None:
    """As on a node onto which a pool has grown beside leases that have all its memory elsewhere."""
    pages = dict.fromkeys(("asked", "granted", "leased", "free", "others_total", "others_free"), 0)
    for use, told in (("pool", True), ("lendable", True), ("leased", False), ("host", False)):
        node = {"node": 1, "memory_mib": 64, "available_mib": 48, "cores": [{"cpus": [4, 5], "use": use}]}
        node["hugepages"] = [pages | {"hugepage_size": "2M"}]
        shown = map_of(
            {"summary": "", "state": "ready", "reason": None, "nodes": [node], "drift": [], "config": None},
            colour=False,
        )
        assert ("no memory of this node is in the pool: its cores can run no enclave" in shown) == told


def test_leases_of_a_pool_that_lends_no_more_are_in_the_legend() -> None:
    node = {"node": 0, "memory_mib": 64, "available_mib": 48, "hugepages": []}
    for use, told in (("leased", True), ("pool", False)):
        pool = {"nodes": [node | {"cores": [{"cpus": [2, 3], "use": use}]}], "config": {"hold_memory": False}}
        shown = map_of(pool | {"summary": "", "state": "ready", "reason": None, "drift": []}, colour=False)
        assert ("leased: an enclave's" in shown) == told


def test_every_mistake_of_a_refused_file_is_shown() -> None:
    mistakes = "a.yaml:1:1: cpu_cuont: unknown key\n  cpu_cuont: 2\n  ^\na.yaml:2:1: memory: unknown key"
    pool: dict[str, Any] = {"state": "degraded", "nodes": [], "drift": [], "config": None}
    shown = map_of(pool | {"summary": "pool degraded: …", "reason": mistakes}, colour=False)
    assert shown.startswith(f"pool degraded: …\n\n{mistakes}\n\n")
    assert map_of(pool | {"summary": "s", "reason": "in one line"}, colour=False).count("in one line") == 0


def test_what_mends_a_degraded_pool_is_told() -> None:
    pool: dict[str, Any] = {"summary": "s", "reason": "r", "nodes": [], "config": None, "drift": []}
    entry = {"what": "CPU 2", "got": "online", "wanted": "offline"}
    degraded = pool | {"state": "degraded"}
    assert map_of(degraded, colour=False).endswith("\nwhy, and what to do: journalctl -x -u ali-enclaves-allocator")
    drifted = map_of(degraded | {"drift": [entry]}, colour=False)
    assert drifted.endswith("\nto mend it: systemctl restart ali-enclaves-allocator")
    assert "what to do" not in map_of(pool | {"state": "ready"}, colour=False)
