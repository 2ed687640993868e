"""The commands of `ali-enclaves-allocator`: their words and exit statuses."""

import asyncio
import json
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from ali_enclaves_allocator import cli
from enclave_cli.client import Client, Unavailable
from tests.sim.daemon.stand import status, status_command
from tests.sim.daemons import run, running
from tests.sim.host import Host


def test_the_commands_tell_the_state_by_their_exit_status(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def test() -> None:
        assert await status(host, monkeypatch) == cli.NOT_RUNNING
        said = capsys.readouterr().err
        assert "is not running; start it: systemctl start ali-enclaves-allocator (if that was refused: " in said
        assert "systemctl status ali-enclaves-allocator says why, ali-enclaves-allocator check tries the file" in said
        async with running(host) as daemon:
            assert await status(host, monkeypatch) == 0
            shown = capsys.readouterr().out
            assert "[0 1 kept] [2 3 pool]" in shown
            assert "2M pages: pool 32 of 32 (0 leased, 32 free for enclaves)" in shown
            assert await status(host, monkeypatch, "--json") == 0
            assert json.loads(capsys.readouterr().out)["state"] == "ready"
            host.simulation.online.add(3)
            daemon.look()
            assert await status(host, monkeypatch) == 1
            assert "drift: CPU 3: online" in capsys.readouterr().out

    run(test)


def test_colour_is_for_terminals_whose_user_wants_it(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def test() -> None:
        async with running(host):
            monkeypatch.setattr("sys.stdout.isatty", lambda: True)
            for setting, coloured in ((None, True), ("", True), ("1", False)):
                monkeypatch.delenv("NO_COLOR", raising=False)
                if setting is not None:
                    monkeypatch.setenv("NO_COLOR", setting)
                await status(host, monkeypatch)
                assert ("\x1b[" in capsys.readouterr().out) == coloured

    run(test)


@pytest.mark.parametrize("words", [["--vers"], ["status", "--wat"], ["plan", "--js"], ["metrics", "--out", "/"]])
def test_an_option_is_written_out(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What a shorter word means would change with the next option."""
    with pytest.raises(SystemExit) as refused:
        cli.main(words)
    assert refused.value.code == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("command", ["status", "reload"])
def test_a_service_that_is_lost_before_it_answers_is_not_called_stopped(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether a reload was carried out, nobody knows then."""
    monkeypatch.setattr(cli, "DIRECTORY", tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "allocator.sock"))
        listener.listen()

        def lose() -> None:
            client, _ = listener.accept()
            client.close()

        service = threading.Thread(target=lose)
        service.start()
        assert cli.main([command]) == cli.NOT_RUNNING
        service.join()
    said = capsys.readouterr().err
    assert "ali-enclaves-allocator does not answer: " in said
    assert "nothing was changed" not in said


def test_status_given_up_before_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: Client) -> Client:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "DIRECTORY", tmp_path)
    monkeypatch.setattr(Client, "__enter__", interrupt)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "allocator.sock"))
        listener.listen()
        assert cli.main(["status"]) == cli.NOT_RUNNING


def test_no_socket_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        Client(str(tmp_path / "none"))


def test_an_output_that_has_no_room_is_told(host: Host) -> None:
    command = status_command(host)

    async def test() -> None:
        async with running(host):
            with open("/dev/full", "w") as full:
                done = await asyncio.to_thread(subprocess.run, command, stdout=full, stderr=subprocess.PIPE, text=True)
            assert (done.returncode, done.stderr) == (73, "cannot write the output: No space left on device\n")

    run(test)
