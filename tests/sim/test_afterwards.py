"""A lease that outlives the service: what it holds goes back to the host when it ends, and not before."""

import errno
import socket
import threading
from pathlib import Path

import pytest

from ali_enclaves_allocator import afterwards
from ali_enclaves_allocator.model.errors import AlreadyRunning, NotGivenBack
from tests.conftest import Boot
from tests.machines import ONE_NODE
from tests.sim.effects import Effects
from tests.sim.host import BOOT_ID, SimLedger
from tests.sim.test_leases import LENDINGS, assert_stands


def test_who_is_not_root_gives_nothing_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert afterwards.run(tmp_path) == afterwards.NOT_PERMITTED
    assert caplog.messages == ["cannot give back: got uid 1000, wanted root; nothing was changed"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["online", "offline"])
def test_a_lease_that_outlives_the_service_is_given_back_when_it_ends(name: str, boot: Boot) -> None:
    host, lease = LENDINGS[name].lent(boot)
    host.give_back()
    assert host.simulation.awaited == {f"evm-{lease.id}.scope"}
    host.simulation.kill(lease.holder.pid)
    assert host.scope_ended() == 0
    host.assert_untouched()


def test_a_holder_that_ends_before_anybody_waits_for_it(boot: Boot) -> None:
    host, lease = LENDINGS["online"].lent(boot)
    host.effects.before("wait for", lambda: host.simulation.kill(lease.holder.pid))
    host.give_back()
    host.assert_untouched()


def test_one_of_two_that_outlive_the_service(boot: Boot) -> None:
    host, lease = LENDINGS["beside another"].lent(boot)
    host.give_back()
    assert len(host.simulation.awaited) == 2
    host.simulation.kill(lease.holder.pid)
    assert host.scope_ended() == 0
    assert lease not in host.record.pool.leases
    assert_stands(host, host.record.pool)
    host.simulation.kill(host.record.pool.leases[0].holder.pid)
    assert host.scope_ended() == 0
    host.assert_untouched()


def test_a_refusal_of_the_rest_keeps_no_lease_from_being_followed(boot: Boot) -> None:
    host = boot(ONE_NODE)
    host.configure(memory_mib=64, cpu_count=4, max_enclaves=2)
    host.start()
    lease = host.lend(host.simulation.spawn(), online=True)
    [free] = [core for core in host.record.pool.cores if core not in lease.cores]
    host.effects.fail(f"write 1 to devices/system/cpu/cpu{free.cpus[0]}/", errno.EIO)
    with pytest.raises(NotGivenBack):
        host.give_back()
    assert host.simulation.awaited == {f"evm-{lease.id}.scope"}
    host.simulation.kill(lease.holder.pid)
    assert host.scope_ended() == 0
    host.assert_untouched()


def test_nobody_waits_where_systemd_refuses(boot: Boot, caplog: pytest.LogCaptureFixture) -> None:
    host, lease = LENDINGS["online"].lent(boot)
    host.effects.fail("wait for", errno.EIO)
    host.give_back()
    assert "nobody will give its part back: Input/output error" in caplog.text
    host.simulation.kill(lease.holder.pid)
    host.give_back()
    host.assert_untouched()


def test_a_service_that_runs_gives_back_by_itself(boot: Boot) -> None:
    host, _ = LENDINGS["online"].lent(boot)
    ledger = SimLedger(host.directory, BOOT_ID, Effects())
    ledger.open()
    try:
        with socket.socket(socket.AF_UNIX) as service:
            service.bind(str(host.directory / "allocator.sock"))
            service.listen()
            assert host.scope_ended() == 0
    finally:
        ledger.close()
    assert host.effects.names == []


def test_another_that_does_not_end_is_told(boot: Boot, monkeypatch: pytest.MonkeyPatch) -> None:
    host, _ = LENDINGS["online"].lent(boot)
    monkeypatch.setattr(afterwards, "WAIT_SECONDS", 0)
    ledger = SimLedger(host.directory, BOOT_ID, Effects())
    ledger.open()
    try:
        assert host.scope_ended() == AlreadyRunning.exit_code
    finally:
        ledger.close()


def test_another_that_gives_back_is_waited_for(boot: Boot) -> None:
    host, lease = LENDINGS["online"].lent(boot)
    host.give_back()
    host.simulation.kill(lease.holder.pid)
    ledger = SimLedger(host.directory, BOOT_ID, Effects())
    ledger.open()
    threading.Timer(1.2, ledger.close).start()
    assert host.scope_ended() == 0
    host.assert_untouched()
