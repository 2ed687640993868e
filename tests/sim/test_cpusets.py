"""Cpusets of cgroup v1, from which the kernel takes CPUs for good: they get them back, or the log names them."""

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ali_enclaves_allocator.kernel.cgroup1 import LinuxCpusets
from ali_enclaves_allocator.kernel.cpuset import _is_in
from ali_enclaves_allocator.model.errors import NotGivenBack
from ali_enclaves_allocator.model.events import CPUSET_CUT
from ali_enclaves_allocator.model.pool import Cpuset, cpusets_with
from tests.conftest import Boot
from tests.machines import DUAL_SOCKET_HT
from tests.sim.effects import Died, Effects
from tests.sim.host import Host
from tests.sim.scenarios import DRIVER, LARGE, LEASED, SMALL, Scenario, at

CGROUP_V1 = replace(
    DUAL_SOCKET_HT,
    cpusets={
        "docker": frozenset(range(16)),
        "docker/of-the-pool": frozenset({3, 11}),
        "docker/of-half-of-it": frozenset({3, 4}),
        "docker/on-the-host": frozenset({0, 8}),
        "machine": frozenset({1, 2, 3, 9, 10, 11}),
    },
)
"""Container engines made cpusets with all, half and nothing of the pool."""

BY_LEASE = {"memory_mib": 64, "cpu_count": 4, "max_enclaves": 2} | LEASED
AWAY = {"memory_mib": 64, "cpu_pool": "7,15"}

SCENARIOS = {
    "apply": Scenario(CGROUP_V1, None, SMALL),
    "grow": Scenario(CGROUP_V1, SMALL, LARGE),
    "shrink": Scenario(CGROUP_V1, LARGE, SMALL),
    "move": Scenario(CGROUP_V1, SMALL, AWAY),
    "give back": Scenario(CGROUP_V1, LARGE, None),
    "leave the cores with the host": Scenario(CGROUP_V1, LARGE, BY_LEASE),
    "take them": Scenario(CGROUP_V1, BY_LEASE, LARGE),
    "to the driver": Scenario(CGROUP_V1, SMALL, SMALL | DRIVER),
    "give the driver's back": Scenario(CGROUP_V1, LARGE | DRIVER, None),
}

each_scenario = pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
each_death = pytest.mark.parametrize("die", [Effects.die_before, Effects.die_after], ids=["before", "after"])


@each_scenario
def test_they_lose_what_is_in_the_pool_and_no_more(scenario: Scenario, boot: Boot) -> None:
    host = scenario.prepare(boot)
    scenario.run(host)
    host.assert_pool_stands()
    if scenario.after:
        host.start()
        assert host.done == [], "the second time there is nothing to do"
    host.give_back()
    host.assert_untouched()


@each_death
@each_scenario
def test_a_crash_loses_none(scenario: Scenario, die: Callable[[Effects, int], None], boot: Boot) -> None:
    host = scenario.prepare(boot)
    scenario.run(host)
    for k, name in enumerate(host.done):
        with at(effect=k, name=name):
            host = scenario.prepare(boot)
            die(host.effects, k)
            with pytest.raises(Died):
                scenario.run(host)
            host.recover()
            host.assert_pool_stands()
            host.give_back()
            host.assert_untouched()


@each_scenario
def test_a_refused_cpu_undoes_it_all(scenario: Scenario, boot: Boot) -> None:
    host = scenario.prepare(boot)
    former = host.record.pool
    host.effects.fail("write 0 to devices/system/cpu/cpu15", errno.EBUSY)
    host.effects.fail("write 0 to devices/system/cpu/cpu11", errno.EBUSY)
    host.effects.fail("write 0 to devices/system/cpu/cpu10", errno.EBUSY)
    try:
        scenario.run(host)
    except Exception:
        assert host.record.pool == former
    host.assert_pool_stands()


@each_death
def test_where_leases_alone_take_cores_they_lose_those_while_they_are_lent(
    die: Callable[[Effects, int], None], boot: Boot
) -> None:
    def prepared() -> tuple[Host, int]:
        host = boot(CGROUP_V1)
        host.configure(**BY_LEASE)
        host.start()
        assert host.simulation.cpusets == CGROUP_V1.cpusets
        host.lend(host.simulation.spawn(), cpu_count=2)
        host.assert_pool_stands()
        return host, host.simulation.spawn()

    host, pid = prepared()
    lease = host.lend(pid, cpu_count=2)
    lent = host.done
    host.assert_pool_stands()
    assert not host.simulation.cpusets["machine"] & lease.cpus
    host.take_back(lease)
    host.assert_pool_stands()
    for effects, lend in ((lent, True), (host.done, False)):
        for k, name in enumerate(effects):
            with at(effect=k, name=name, lend=lend):
                host, pid = prepared()
                lease = None if lend else host.lend(pid, cpu_count=2)
                die(host.effects, k)
                with pytest.raises(Died):
                    host.take_back(lease) if lease else host.lend(pid, cpu_count=2)
                host.simulation.kill(pid)
                host.start()
                host.assert_pool_stands()
                host.give_back()
                assert host.simulation.cpusets["docker/on-the-host"] == {0, 8}


def cut(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the records of cpusets that did not get their CPUs back."""
    return [r.getMessage() for r in caplog.records if r.__dict__.get("MESSAGE_ID") == CPUSET_CUT["MESSAGE_ID"]]


@pytest.fixture
def host(boot: Boot) -> Host:
    """Return a host whose pool is CPUs 3 and 11."""
    host = boot(CGROUP_V1)
    host.configure(**SMALL)
    host.start()
    assert host.record.pool.cpus == {3, 11}
    return host


def test_what_others_made_of_a_cpuset_meanwhile_is_theirs(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    cpusets = host.simulation.cpusets
    cpusets["machine"] = frozenset({1, 5})
    del cpusets["docker/of-the-pool"]
    host.give_back()
    assert host.simulation.cpusets["machine"] == {1, 3, 5, 11}
    assert "docker/of-the-pool" not in host.simulation.cpusets
    assert cut(caplog) == []


def test_what_the_kernel_refuses_is_named_and_keeps_nothing_else(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    host.effects.fail("give back to docker", errno.EINVAL)
    host.give_back()
    assert cut(caplog) == [
        "cpuset docker does not get CPUs 3,11 back: Invalid argument",
        "cpuset docker/of-half-of-it does not get CPU 3 back: Invalid argument",
        "cpuset docker/of-the-pool does not get CPUs 3,11 back: Invalid argument",
    ]
    assert host.simulation.cpusets["machine"] == CGROUP_V1.cpusets["machine"]
    assert not (host.directory / "ledger.json").exists(), "and it is not tried again"


def test_they_wait_for_a_cpu_that_cannot_come_online_until_it_can(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    host.effects.fail("write 1 to devices/system/cpu/cpu11", errno.EIO)
    with pytest.raises(NotGivenBack, match="CPU 11"):
        host.give_back()
    host.give_back()
    assert host.simulation.cpusets == CGROUP_V1.cpusets
    assert cut(caplog) == []


def test_a_cpu_that_others_take_as_soon_as_it_is_back_is_named(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    host.effects.watch = lambda: host.simulation.online.discard(11)
    host.give_back()
    assert "cpuset docker/of-the-pool does not get CPU 11 back: offline" in cut(caplog)
    assert host.simulation.cpusets["docker/of-the-pool"] == {3}


def test_a_cpu_that_came_back_by_itself_is_given_back_too(host: Host) -> None:
    host.simulation.set_online(3, True)
    host.give_back()
    assert host.simulation.cpusets == CGROUP_V1.cpusets


def test_a_cpuset_made_while_a_cpu_had_come_back_gets_it_again(host: Host) -> None:
    host.simulation.set_online(3, True)
    host.simulation.cpusets["docker/new"] = frozenset({2, 3})
    host.start()
    assert host.simulation.cpusets["docker/new"] == {2}
    host.give_back()
    assert host.simulation.cpusets == {**CGROUP_V1.cpusets, "docker/new": frozenset({2, 3})}


def test_parts_of_several_notes() -> None:
    notes = [Cpuset("b", (1, 2)), Cpuset("a", (3,)), Cpuset("b", (2, 4))]
    assert cpusets_with(notes, frozenset({2, 3, 4})) == (Cpuset("a", (3,)), Cpuset("b", (2, 4)))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a hierarchy on disk, as a kernel shows it."""
    for path, its in {"": "0-7", "docker": "0-7", "docker/one": "2-3", "docker/two": "", "empty": "4"}.items():
        (tmp_path / "cpuset" / path).mkdir(parents=True)
        (tmp_path / "cpuset" / path / "cpuset.cpus").write_text(f"{its}\n")
    (tmp_path / "mounts").write_text(
        f"cgroup2 {tmp_path}/unified cgroup2 rw,cpuset 0 0\ncgroup {tmp_path}/cpuset cgroup rw,relatime,cpuset 0 0\n"
    )
    return tmp_path


def test_the_door_reads_the_hierarchy_where_it_is_mounted(tree: Path) -> None:
    found = LinuxCpusets(tree / "mounts").having(frozenset({3, 5}))
    assert found == (Cpuset("docker", (3, 5)), Cpuset("docker/one", (3,)))


def test_the_door_adds_what_is_missing(tree: Path) -> None:
    cpusets = LinuxCpusets(tree / "mounts")
    for cpuset in (Cpuset("docker/two", (2, 3)), Cpuset("docker/one", (3, 5)), Cpuset("docker/gone", (3,))):
        cpusets.give_back(cpuset)
    assert (tree / "cpuset/docker/two/cpuset.cpus").read_text() == "2-3"
    assert (tree / "cpuset/docker/one/cpuset.cpus").read_text() == "2-3,5"
    assert not (tree / "cpuset/docker/gone").exists()


def test_without_the_hierarchy_there_is_none(tree: Path) -> None:
    (tree / "mounts").write_text("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nodev,noexec,relatime 0 0\n")
    cpusets = LinuxCpusets(tree / "mounts")
    assert cpusets.having(frozenset({3})) == ()
    cpusets.give_back(Cpuset("docker", (3,)))


@pytest.mark.parametrize(
    ("cgroups", "there"),
    [
        ("0::/system.slice/evm-1.scope", True),
        ("0::/system.slice/a.service", False),
        ("11:cpuset:/\n1:name=systemd:/system.slice/evm-1.scope\n0::/", True),
        ("1:name=systemd:/user.slice/evm-11.scope\n0::/evm-1.scope.d", False),
    ],
)
def test_a_process_is_in_a_scope_in_any_hierarchy(cgroups: str, there: bool) -> None:
    assert _is_in(cgroups, "evm-1.scope") == there
