"""A lease that outlives the service: what it holds goes back to the host when it ends, and not before."""

import asyncio
import errno
import select
import socket
import threading
from pathlib import Path

import pytest

from ali_enclaves_allocator import afterwards
from ali_enclaves_allocator.model.errors import AlreadyRunning, NotGivenBack
from tests.conftest import Boot
from tests.machines import ONE_NODE
from tests.sim.daemons import run, running, socket_of, until
from tests.sim.effects import Effects
from tests.sim.host import BOOT_ID, Host, SimLedger
from tests.sim.leases.stand import LENDINGS, assert_stands


def test_who_is_not_root_gives_nothing_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert afterwards.run(tmp_path) == afterwards.NOT_PERMITTED
    assert caplog.messages == ["cannot give back: got uid 1000, wanted root; nothing was changed"]
    assert not list(tmp_path.iterdir())


def test_where_nothing_is_set_aside_it_is_told(boot: Boot, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    host, lease = LENDINGS["offline"].lent(boot)
    host.give_back()
    host.simulation.kill(lease.holder.pid)
    told = []
    for _ in range(2):
        caplog.clear()
        assert host.scope_ended() == 0
        told.append(caplog.messages[-1])
    assert told == [
        "the pool is given back to the host",
        "nothing is set aside on this machine: there is nothing to give back",
    ]


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
    host, lease = LENDINGS["online"].lent(boot)

    async def test() -> None:
        async with running(host):
            host.simulation.kill(lease.holder.pid)
            assert await asyncio.to_thread(host.scope_ended) == 0
            await until(lambda: not host.record.pool.leases)
            assert host.record.pool.cores

    run(test)
    host.assert_untouched()


def test_a_service_that_systemd_starts_again_finds_its_pool(boot: Boot, monkeypatch: pytest.MonkeyPatch) -> None:
    host, lease = LENDINGS["online"].lent(boot)
    host.config_path.write_text("it would be refused")
    host.simulation.kill(lease.holder.pid)

    async def test() -> None:
        kept = _listening(host)
        monkeypatch.setattr("ali_enclaves_allocator.unit.stored_socket", lambda: kept)
        waiting = asyncio.create_task(asyncio.to_thread(host.scope_ended))
        await until(lambda: bool(select.select([kept], [], [], 0)[0]))
        assert host.record.pool.leases
        async with running(host):
            assert await waiting == 0
            assert (host.record.pool.cores, host.record.pool.leases) == (cores, ())

    cores = host.record.pool.cores
    run(test)
    host.assert_untouched()


def test_a_service_that_stops_is_waited_for(boot: Boot) -> None:
    host, lease = LENDINGS["online"].lent(boot)
    host.give_back()
    host.simulation.kill(lease.holder.pid)
    ledger = SimLedger(host.directory, BOOT_ID, Effects())
    ledger.open()
    statuses: list[int] = []
    with _listening(host, wait_s=10) as service:
        unit = threading.Thread(target=lambda: statuses.append(host.scope_ended()))
        unit.start()
        for answer in (b'{"parameters": {"pool": {"state": "stopping"}}}\0', b'{"error": "not.now"}\0', b""):
            client, _ = service.accept()
            while not client.recv(4096).startswith(b"{"):
                client.close()  # it only asked whether somebody listens
                client, _ = service.accept()
            client.sendall(answer)
            client.close()
    ledger.close()
    unit.join()
    assert statuses == [0]
    host.assert_untouched()


def _listening(host: Host, wait_s: float = 0) -> socket.socket:
    """Return a socket as systemd keeps it for the service."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(socket_of(host))
    listener.listen()
    listener.settimeout(wait_s)
    return listener


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
