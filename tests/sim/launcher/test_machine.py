"""What an enclave gets of its machine: KVM, vsock, QEMU; and what it tells of itself."""

import json
import os
import socket
import time
from pathlib import Path

import pytest

from enclave_cli import accel, enclaves, paths, qemu, vsock
from enclave_cli.failure import Failure
from tests.sim.launcher.stand import Cli, tiny_image


def test_describe_eif(cli: Cli) -> None:
    described = json.loads(cli("describe-eif", "--eif-path", cli.image(tiny_image("quiet", {"name": "x"}))).stdout)
    assert described["CommandLine"] == "quiet" and described["Metadata"] == {"name": "x"}
    assert list(described["Measurements"]) == ["HashAlgorithm", "PCR8", "PCR9", "PCR11"]
    assert [part["Type"] for part in described["Sections"]] == ["kernel", "cmdline", "metadata", "ramdisk"]


def test_the_command_of_qemu_has_nothing_but_cpus_memory_and_vsock() -> None:
    lease = {"id": "00000000000000aa", "cpus": [2, 3], "memory_mib": 192}
    fds = {"memory": 5, "vsock": 6, "kernel": 7, "initrd": 8}
    command = qemu.command("/usr/bin/qemu", lease, "quiet", "kvm", 9, fds, "/run/monitor.sock")
    assert command.count("-device") == 1 and "vhost-vsock-pci,guest-cid=9,vhostfd=6" in command
    assert {"-nodefaults", "-no-user-config", "-sandbox"} <= set(command)
    for option in ("-drive", "-hda", "-netdev", "-cdrom", "-chardev"):
        assert option not in command


def test_kvm_is_believed_when_it_has_run_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(paths, "KVM", str(device))
    monkeypatch.setattr(accel, "PROBE_SECONDS", 0.3)
    monkeypatch.setattr(accel, "_runs_code", lambda: True)
    assert accel.choose("auto") == accel.choose("kvm") == "kvm"
    monkeypatch.setattr(accel, "_runs_code", lambda: False)
    assert accel.choose("auto") == "tcg"
    monkeypatch.setattr(accel, "_runs_code", lambda: time.sleep(60))
    began = time.monotonic()
    assert accel.probe(0.3) == "it ran no code within 0.3 s"
    assert time.monotonic() - began < 5


def test_kvm_that_is_no_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "kvm").touch()
    monkeypatch.setattr(paths, "KVM", str(tmp_path / "kvm"))
    assert accel.choose("auto") == "tcg"
    with pytest.raises(Failure, match="it cannot run code; nothing was taken from the pool"):
        accel.choose("kvm")
    monkeypatch.setattr(paths, "KVM", str(tmp_path / "absent"))
    assert accel.choose("auto") == "tcg"


class Listener:
    """A vsock listener to which one peer connects."""

    def __init__(self, cid: int, data: bytes) -> None:
        self.cid, (self.peer, self.connection) = cid, socket.socketpair()
        self.peer.sendall(data)

    def accept(self) -> tuple[socket.socket, tuple[int, int]]:
        return self.connection, (self.cid, 1234)


@pytest.mark.parametrize(("cid", "data", "heard"), [(5, b"\xb7", True), (6, b"\xb7", False), (5, b"x", False)])
def test_the_heartbeat_of_the_enclave_only(cid: int, data: bytes, heard: bool) -> None:
    listener = Listener(cid, data)
    with listener.peer:
        assert vsock.heard(listener, 5) is heard  # type: ignore[arg-type]
        if heard:
            assert listener.peer.recv(1) == b"\xb7"


def test_annotations_fit_the_interface() -> None:
    measured = {f"PCR{number}": "0" * 64 for number in (8, 9, 11, 12)}
    told = enclaves.annotations(2**32 - 2, "/" + "é" * 3000 + "/the-end.eif", False, measured)
    assert len(json.dumps(told)) <= 1024 and told["image"].endswith("/the-end.eif")


def test_a_path_that_is_no_text_can_be_told() -> None:
    told = enclaves.annotations(4, os.fsdecode(b"/\xff.eif"), False, {})
    assert told["image"].encode().decode() == "/\ufffd.eif"
