"""The metrics: what they say of a pool, that foreign parsers read them, and that the example alerts speak of them."""

import asyncio
import os
import re
import socket
import subprocess
import threading
import time
import urllib.request
from pathlib import Path
from typing import get_args
from urllib.error import URLError

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from ali_enclaves_allocator import cli, metrics
from ali_enclaves_allocator.model.errors import ShortGrant
from ali_enclaves_allocator.model.tally import ACQUIRE_REFUSALS
from ali_enclaves_allocator.server.interface import NAME, CoreView, State
from enclave_cli.client import CallError, Client
from tests.conftest import Boot
from tests.foreign import command
from tests.machines import GUEST_2X2X2
from tests.sim.daemons import run, running
from tests.sim.host import Host

ROOT = Path(__file__).parent.parent
ALERTS = ROOT / "docs/alerts.yaml"


@pytest.fixture
def host(boot: Boot) -> Host:
    host = boot(GUEST_2X2X2)
    host.configure(memory_mib=64, cpu_count=2, max_enclaves=3)
    return host


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Read metrics as Prometheus' own library for Python does: values by name and labels."""
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            found[sample.name.removeprefix("ali_enclaves_"), *sample.labels.values()] = sample.value
    return found


async def written(host: Host, file: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what the command writes to a file."""
    monkeypatch.setattr(cli, "DIRECTORY", host.directory)
    assert await asyncio.to_thread(cli.main, ["metrics", "--output", str(file)]) == 0
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    return file.read_text()


def state_of(found: dict[tuple[str, ...], float]) -> list[str]:
    return [key[1] for key, value in found.items() if key[0] == "state" and value]


def test_they_say_what_the_pool_is(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "ali-enclaves.prom"

    async def test() -> None:
        assert state_of(samples(await written(host, file, monkeypatch))) == ["stopped"]
        async with running(host) as daemon:
            found = samples(await written(host, file, monkeypatch))
            host.simulation.online.add(3)
            daemon.look()
            drifted = samples(await written(host, file, monkeypatch))
        assert (state_of(found), state_of(drifted)) == (["ready"], ["degraded"])
        assert (found["drift",], drifted["drift",]) == (0, 1)
        uses = {node: [found["cores", node, use] for use in metrics.USES] for node in ("0", "1")}
        assert uses == {"0": [1, 0, 0, 1, 0], "1": [0, 2, 0, 0, 0]}
        assert [found["hugepages_asked", "2M", node] for node in ("0", "1")] == [32, 0]
        assert [found["leases",], found["leases_limit",]] == [0, 3]

    run(test)


def test_pages_are_told_by_use() -> None:
    pages = {"hugepage_size": "1G", "asked": 9, "leased": 2, "free": 6, "others_total": 5, "others_free": 1}
    pool = {"state": "ready", "leases": 0, "config": None, "drift": [], "short_grants": 0, "refused_acquisitions": {}}
    found = samples(metrics.openmetrics(pool | {"nodes": [{"node": 4, "cores": [], "hugepages": [pages]}]}))
    uses = {key[3]: value for key, value in found.items() if key[:3] == ("hugepages", "1G", "4")}
    assert uses == {"pool": 6, "leased": 2, "others": 4, "others_free": 1}
    assert found["hugepages_asked", "1G", "4"] == 9


def test_every_state_is_told() -> None:
    assert set(metrics.STATES) == {*get_args(State), metrics.STOPPED, metrics.SILENT}
    assert set(metrics.USES) == set(get_args(CoreView.model_fields["use"].annotation))


def test_refusals_and_short_grants_are_counted(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "ali-enclaves.prom"

    def contradict() -> None:
        with Client(str(host.directory / "allocator.sock")) as client, pytest.raises(CallError):
            client.call(f"{NAME}.Acquire", {"cpu_count": 2, "cpus": [2, 3], "memory_mib": 16, "online": True})

    async def test() -> None:
        async with running(host) as daemon:
            before = samples(await written(host, file, monkeypatch))
            await asyncio.to_thread(contradict)
            memory = host.simulation.memory[0]
            memory.scattered_kib = memory.stuck_kib = memory.free_kib - 5 * 2048
            host.configure(memory_mib=128, cpu_pool="2-3", max_enclaves=3)
            with pytest.raises(ShortGrant):
                await daemon.reload()
            daemon.tell()
            after = samples(await written(host, file, monkeypatch))
        rises = {key: value - before[key] for key, value in after.items() if value != before[key]}
        assert rises == {
            ("refused_acquisitions_total", "InvalidRequest"): 1,
            ("short_grants_total",): 1,
            ("state", "ready"): -1,
            ("state", "degraded"): 1,
        }
        refusals = {key[1] for key in before if key[0] == "refused_acquisitions_total"}
        assert refusals == {error.__name__ for error in ACQUIRE_REFUSALS}

    run(test)


def test_a_service_that_keeps_silent_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "DIRECTORY", tmp_path)
    file = tmp_path / "ali-enclaves.prom"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "allocator.sock"))
        listener.listen()

        def close() -> None:
            listener.accept()[0].close()

        closing = threading.Thread(target=close)
        closing.start()
        assert cli.main(["metrics", "--output", str(file)]) == 0
        closing.join()
    assert state_of(samples(file.read_text())) == ["silent"]


def test_a_file_that_cannot_be_written_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a directory"
    file.mkdir()
    assert cli.main(["metrics", "--output", str(file)]) == cli.EX_CANTCREAT
    assert capsys.readouterr().err == f"cannot write {file}: wanted a regular file, or none; it is as it was\n"
    assert list(tmp_path.iterdir()) == [file]


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    """Such as /dev/null, where root asks for it."""
    link, fifo = tmp_path / "stdout", tmp_path / "fifo"
    link.symlink_to("/proc/self/fd/1")
    os.mkfifo(fifo)
    for odd in (link, fifo):
        assert cli.main(["metrics", "--output", str(odd)]) == cli.EX_CANTCREAT
    assert link.is_symlink() and fifo.is_fifo()


def test_a_link_that_another_user_left_beside_the_file_is_not_followed(tmp_path: Path) -> None:
    precious, draft = tmp_path / "precious", tmp_path / f".a.prom.{os.getpid()}"
    precious.write_text("precious")
    draft.symlink_to(precious)
    assert cli.main(["metrics", "--output", str(tmp_path / "a.prom")]) == 0
    assert precious.read_text() == "precious" and not draft.is_symlink()


def test_the_node_exporter_reads_them(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one, which knows the older text format of Prometheus only."""

    async def test() -> None:
        async with running(host):
            await written(host, tmp_path / "ali-enclaves.prom", monkeypatch)

    run(test)
    scraped = exported(tmp_path)
    assert "node_textfile_scrape_error 0" in scraped.splitlines()
    told = [line for line in (tmp_path / "ali-enclaves.prom").read_text().splitlines() if not line.startswith("#")]
    assert set(told) <= set(scraped.splitlines())
    assert "# TYPE ali_enclaves_cores gauge" in scraped.splitlines()


def exported(directory: Path) -> str:
    """Return what the node exporter makes of a directory of text files."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    exporter = command("prometheus-node-exporter")
    exporter += ["--collector.disable-defaults", "--collector.textfile", f"--collector.textfile.directory={directory}"]
    with subprocess.Popen([*exporter, f"--web.listen-address={address}"], stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    with direct.open(f"http://{address}/metrics") as reply:
                        return str(reply.read().decode())
                except URLError:
                    assert time.monotonic() < deadline and process.poll() is None, "the node exporter does not answer"
                    time.sleep(0.1)
        finally:
            process.kill()


def test_the_example_alerts_fire_and_keep_quiet() -> None:
    subprocess.run([*command("promtool"), "test", "rules", "tests/alerts.yaml"], cwd=ROOT, check=True)


def test_the_example_alerts_ask_for_what_there_is() -> None:
    pool = {"leases": 0, "config": None, "drift": [], "short_grants": 0, "refused_acquisitions": {"A": 0}}
    text = metrics.openmetrics(pool | {"state": "ready", "nodes": []})
    names = {family.name for family in text_string_to_metric_families(text)}
    asked = set(re.findall(r"\b(ali_enclaves_\w+?)(?:_total)?\b", ALERTS.read_text()))
    assert len(asked) == 4
    assert asked <= names
