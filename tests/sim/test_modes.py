"""Pools that are not always offline, not held, or the driver's: what is refused, what is told, and how it ends."""

import pytest

from ali_enclaves_allocator.model.config import ConfigInvalid
from ali_enclaves_allocator.model.errors import CpuRefused, DriverRefused, LeaseInTheWay, NotGivenBack
from ali_enclaves_allocator.model.events import TASK_DISPLACED
from ali_enclaves_allocator.model.pool import Pool, drift
from ali_enclaves_allocator.model.refusals import LeasesDisabled
from tests.conftest import Boot
from tests.machines import DUAL_SOCKET_HT, GUEST_2X2X2, ONE_NODE
from tests.sim.daemons import get_pool, run, running
from tests.sim.effects import Died
from tests.sim.host import Host
from tests.sim.scenarios import DRIVER, LARGE, LEASED, LOOSE, SCENARIOS, SMALL


def told(host: Host) -> list[str]:
    """Return the drift of the pool that stands."""
    pool = host.record.pool
    return [str(entry) for entry in drift(pool, host.simulation.kernel.sight(pool))]


def test_the_host_has_the_cores_until_a_lease_takes_them(boot: Boot) -> None:
    async def shown() -> None:
        async with running(host, keep=True):
            pool = await get_pool(host)
            assert pool["cpus"] == [4, 5, 6, 7]
            assert [core["use"] for core in pool["nodes"][1]["cores"]] == ["lendable", "lendable"]
            assert pool["summary"].endswith("96 MiB in 48×2M; no leases, so the host has the CPUs")
            assert pool["config"]["offline"] == "leased"

    host = SCENARIOS["apply for leases"].prepare(boot)
    host.start()
    assert host.state.online == set(range(8))
    lease = host.lend(host.simulation.spawn())
    assert host.state.online == set(range(8)) - lease.cpus
    host.take_back(lease)
    assert host.state.online == set(range(8))
    run(shown)


def test_the_slice_of_an_earlier_lease_goes_with_the_last_of_its_cpus(boot: Boot) -> None:
    host = SCENARIOS["apply"].prepare(boot)
    host.start()
    host.take_back(host.lend(host.simulation.spawn(), online=True))
    first = host.lend(host.simulation.spawn())
    assert host.simulation.partition.cpus == first.cpus, "the slice is there still, and the CPUs are offline again"
    host.configure(**SMALL | LEASED)
    host.start()
    assert host.simulation.partition.cpus == first.cpus, "without it the host would miss them for ever"
    host.take_back(first)
    assert host.state.online == set(range(8))
    assert not host.simulation.partition.cpus
    assert not host.simulation.lost


def test_a_core_that_others_took_is_not_lent_and_never_brought_up(boot: Boot) -> None:
    async def test() -> None:
        async with running(host, keep=True) as daemon:
            daemon.look()
            assert (await get_pool(host))["state"] == "degraded"

    host = SCENARIOS["apply for leases"].prepare(boot)
    host.start()
    host.simulation.online.discard(7)
    host.settle()
    assert told(host) == ["CPU 7: offline: somebody else took them, wanted online until a lease takes them"]
    run(test)
    host.configure(**SMALL | LEASED)
    host.start()
    assert told(host) == []
    assert host.record.pool.cpus == {4, 5}, "a core that may be torn stays with the host"
    host.give_back()
    assert host.state.online == set(range(7))


def test_a_task_that_a_lease_displaces_is_told(boot: Boot, caplog: pytest.LogCaptureFixture) -> None:
    host = SCENARIOS["apply for leases"].prepare(boot)
    host.simulation.task(6, 7)
    host.simulation.task(4, 7)
    host.start()
    assert not caplog.records, "nothing goes offline yet"
    host.lend(host.simulation.spawn())
    assert displaced(caplog) == ["task worker[700] may run on CPUs 6-7 only, all in the pool"]


def test_an_enclave_on_other_cores_is_not_displaced(boot: Boot, caplog: pytest.LogCaptureFixture) -> None:
    host = boot(ONE_NODE)
    host.configure(**LARGE | LEASED, max_enclaves=2)
    host.start()
    lease = host.lend(host.simulation.spawn(), online=True)
    host.simulation.task(*lease.cpus)
    host.lend(host.simulation.spawn(), online=True)
    assert displaced(caplog) == []


def displaced(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what is told of tasks that are moved."""
    told = [r.getMessage() for r in caplog.records if getattr(r, "MESSAGE_ID", "") == TASK_DISPLACED["MESSAGE_ID"]]
    return [text.partition(":")[0] for text in told]


@pytest.mark.parametrize("online", [False, True])
def test_a_core_that_the_host_cannot_spare_is_not_lent(online: bool, boot: Boot) -> None:
    host = SCENARIOS["apply for leases"].prepare(boot)
    host.start()
    host.simulation.deadline_task(6)
    with pytest.raises(CpuRefused) as refused:
        host.lend(host.simulation.spawn(), online=online)
    assert str(refused.value).startswith(
        "cannot take CPU 6 offline: Device or resource busy, held by drumbeat[700]; nothing is lent"
    )
    host.assert_pool_stands()
    host.simulation.tasks.clear()
    host.lend(host.simulation.spawn(), online=online)
    host.assert_pool_stands()


def test_cores_go_offline_around_a_lease_when_they_shall_always_be(boot: Boot) -> None:
    host = SCENARIOS["apply for leases"].prepare(boot)
    host.start()
    lease = host.lend(host.simulation.spawn(), online=True)
    for keys, offline in ((LARGE, {4, 5}), (LARGE | LEASED, set())):
        host.configure(**keys)
        host.start()
        host.assert_pool_stands()
        assert set(range(8)) - host.state.online == offline
        assert host.done[1:-1] == [f"write {int(not offline)} to devices/system/cpu/cpu{cpu}/online" for cpu in (4, 5)]
        assert lease in host.record.pool.leases


def test_pages_that_are_not_held_are_counted_and_watched(boot: Boot) -> None:
    async def shown() -> None:
        async with running(host, keep=True):
            pages = (await get_pool(host))["nodes"][1]["hugepages"][0]
            told_of = [pages[key] for key in ("asked", "granted", "leased", "free", "others_total", "others_free")]
            assert told_of == [48, 48, 0, 48 - 20 + others.free, others.total, 0], "nobody knows whose are in use"

    host = SCENARIOS["apply for leases"].prepare(boot)
    others = host.simulation.counts(1)
    host.configure(**LARGE | LOOSE)
    host.start()
    assert host.simulation.use(1, 20 + others.free) == 20 + others.free, "anybody can take them"
    host.simulation.release(1, others.free)
    run(shown)
    assert told(host) == []
    with pytest.raises(LeasesDisabled) as refused:
        host.lend(host.simulation.spawn())
    assert str(refused.value) == (
        "cannot lend: the pool's memory is not held (hold_memory: false, cpu_driver: sysfs); nothing was changed\n"
        "  (any program can map this pool's pages; for leases, set hold_memory: true and reload the service)"
    )
    host.give_back()
    assert host.simulation.counts(1).persistent == others.persistent
    host.simulation.release(1, 20)
    assert host.simulation.counts(1) == others, "what was in use then went back to the kernel when it was freed"


def test_pages_that_are_not_held_and_vanish_are_drift(boot: Boot) -> None:
    host = SCENARIOS["apply loosely"].prepare(boot)
    host.start()
    node = host.record.pool.shares[0].node
    host.simulation.set_by_hand(node, 3)
    assert len(told(host)) == 1
    assert "3 without surplus, wanted at least" in told(host)[0]
    host.start()
    assert told(host) == []


def test_while_an_enclave_runs_the_driver_keeps_its_cpus(boot: Boot) -> None:
    host = SCENARIOS["apply with the driver"].prepare(boot)
    host.start()
    former = host.record.pool
    host.simulation.driver.enclave_runs = True
    host.configure(**LARGE | DRIVER)
    with pytest.raises(DriverRefused) as refused:
        host.start()
    assert str(refused.value) == (
        "cannot give the nitro_enclaves driver CPUs 4-7: Operation not permitted, it had CPUs 2-3; all changes undone\n"
        "  (an enclave runs on its CPUs, which end with none: nitro-cli terminate-enclave --all, then try again)"
    )
    host.assert_pool_stands()
    assert host.record.pool == former
    with pytest.raises(NotGivenBack, match="driver no CPUs: Operation not permitted, it had CPUs 2-3"):
        host.give_back()
    assert (host.state.driver, host.state.pages) == ({2, 3}, host.origin.pages)
    host.simulation.driver.enclave_runs = False
    host.give_back()
    host.assert_untouched()


@pytest.mark.parametrize("death", ["", "write  to module"])
def test_cpus_of_a_running_enclave_are_not_brought_online(death: str, boot: Boot) -> None:
    """That the driver gives none up undoes what was meant to follow, and finds them offline: by its doing."""
    host = SCENARIOS["from the driver"].prepare(boot)
    former, state = host.record.pool, host.state
    host.simulation.driver.enclave_runs = True
    host.effects.watch = lambda: assert_offline(host, former)
    if death:
        host.effects.die_before(death)
    with pytest.raises(Died if death else DriverRefused) as refused:
        host.start()
    host.recover()
    assert death or refused.value.outcome == "all changes undone"
    assert (host.state, host.record.pool) == (state, former)
    host.simulation.driver.enclave_runs = False
    host.start()
    host.assert_pool_stands()
    assert host.record.pool.driver_cpus == frozenset()


def assert_offline(host: Host, pool: Pool) -> None:
    """Check that no CPU of a driver with a running enclave is online."""
    assert not host.simulation.driver.enclave_runs or not pool.driver_cpus & host.simulation.online


def test_what_the_driver_refuses_leaves_it_what_it_had(boot: Boot) -> None:
    """It gives up all it has before it looks at the new list, so it must be given that again."""
    host = SCENARIOS["other CPUs of the driver"].prepare(boot)
    former = host.record.pool
    host.simulation.deadline_task(9)
    with pytest.raises(DriverRefused) as refused:
        host.start()
    assert "cannot give the nitro_enclaves driver CPUs 1,9: Device or resource busy" in str(refused.value)
    assert "journalctl -k" in refused.value.hint()
    host.assert_pool_stands()
    assert host.record.pool == former
    host.simulation.tasks.clear()
    host.start()
    host.assert_pool_stands()


def test_a_driver_that_lost_its_cpus_is_drift_and_given_them_again(boot: Boot) -> None:
    host = SCENARIOS["apply with the driver"].prepare(boot)
    host.start()
    host.simulation.driver.set("\n")
    assert told(host) == [
        "CPUs 2-3: online: the host runs on them, wanted offline",
        "the nitro_enclaves driver: has no CPUs, wanted to have CPUs 2-3",
    ]
    host.start()
    assert told(host) == []
    host.simulation.online.add(3)
    host.start()
    assert told(host) == []
    host.simulation.driver.loaded = False
    assert told(host) == ["the nitro_enclaves driver: not loaded, wanted to have CPUs 2-3"]


def test_without_the_driver_or_with_a_pool_of_somebody_elses_nothing_is_done(boot: Boot) -> None:
    host = SCENARIOS["apply with the driver"].prepare(boot)
    host.simulation.driver.loaded = False
    with pytest.raises(ConfigInvalid, match=r"cpu_driver: the module nitro_enclaves is not loaded.*modprobe"):
        host.start()
    host.simulation.driver.loaded = True
    host.simulation.driver.set("6-7")
    host.settle()
    with pytest.raises(ConfigInvalid, match="nitro_enclaves has CPUs 6-7 of somebody else's"):
        host.start()
    host.assert_untouched()


def test_the_driver_takes_cpus_of_one_node(boot: Boot) -> None:
    host = boot(DUAL_SOCKET_HT)
    host.simulation.driver.loaded = True
    host.configure(memory_mib=64, cpu_pool="3,11,7,15", max_enclaves=2, **DRIVER)
    with pytest.raises(ConfigInvalid, match="wanted one node: the nitro_enclaves driver takes CPUs of one"):
        host.start()
    host.configure(memory_mib=64, cpu_pool="3,11,7,15", max_enclaves=2)
    host.start()
    host.assert_pool_stands()


def test_no_lease_is_cut_for_the_driver(boot: Boot) -> None:
    host = boot(GUEST_2X2X2)
    host.simulation.driver.loaded = True
    host.configure(**SMALL)
    host.start()
    host.lend(host.simulation.spawn(), name="web")
    host.configure(**SMALL | DRIVER)
    with pytest.raises(LeaseInTheWay, match="web"):
        host.start()
    host.assert_pool_stands()
