"""What is told of the machine itself: as much as can be read, whatever is there."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ali_enclaves_allocator import cli
from ali_enclaves_allocator.change.difference import Change
from ali_enclaves_allocator.kernel import instance as door
from ali_enclaves_allocator.kernel.instance import read_instance
from ali_enclaves_allocator.model.instance import Instance, remarks
from ali_enclaves_allocator.model.pool import Pool

ECS = Instance("Alibaba Cloud", "Alibaba Cloud ECS", "", "ecs.g7t.xlarge")


def put(root: Path, path: str, content: bytes) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(content)


def machine(root: Path, data: Any = None) -> Path:
    put(root, f"{door.DMI}/sys_vendor", b"Alibaba Cloud\n")
    put(root, f"{door.DMI}/product_name", b"Alibaba Cloud ECS\n")
    if data is not None:
        put(root, door.CLOUD_INIT, data if isinstance(data, bytes) else json.dumps(data).encode())
    return root


@pytest.mark.parametrize(
    ("data", "type"),
    [
        ({"ds": {"meta_data": {"instance": {"instance-type": "ecs.g7t.xlarge"}}}}, "ecs.g7t.xlarge"),
        ({"ds": {"meta_data": {"instance-type": "m5.large"}}}, "m5.large"),
        ({"ds": {"meta_data": {"instance": ["ecs"], "instance-type": 7}}}, ""),
        ({"ds": []}, ""),
        ([], ""),
        (None, ""),
        (b"", ""),
        (b"\xff\xfe{", ""),
        (b"[" * 100_000, ""),
        (b'{"ds": ' + b" " * (5 << 20) + b"1}", ""),
        ({"ds": {"meta_data": {"instance-type": "ecs\u001b[2J\n" + "x" * 500}}}, "ecs?[2J?" + "x" * 92),
    ],
)
def test_reads_the_type_where_cloud_init_has_it(tmp_path: Path, data: Any, type: str) -> None:
    assert read_instance(machine(tmp_path, data)) == Instance("Alibaba Cloud", "Alibaba Cloud ECS", "", type)


def test_what_cannot_be_read_is_empty(tmp_path: Path) -> None:
    (tmp_path / door.CLOUD_INIT).mkdir(parents=True)
    assert read_instance(tmp_path) == Instance()
    assert Instance().describe() == "the firmware does not tell"


@pytest.mark.parametrize(
    ("instance", "cpu_count", "told"),
    [
        (ECS, 4, []),
        (ECS, 2, ["the machine has 2 CPUs; the documented minimum for an enclave is 4"]),
        (replace(ECS, type="ecs.c8it.large"), 4, []),
        (
            replace(ECS, type="ecs.g7.xlarge"),
            4,
            [
                "ecs.g7.xlarge is of no security-enhanced family (such as g7t), for which enclaves are documented; "
                "its page tells of others"
            ],
        ),
        (
            Instance("Alibaba Cloud"),
            8,
            ["the instance type cannot be read without network: whether it offers enclaves is not checked"],
        ),
        (
            Instance("QEMU", "Standard PC"),
            8,
            ["not an instance of Alibaba Cloud: enclaves run as virtual machines of this host's own"],
        ),
    ],
)
def test_remarks(instance: Instance, cpu_count: int, told: list[str]) -> None:
    assert list(remarks(instance, cpu_count)) == told


def test_check_tells_the_instance_and_fails_for_none_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_propose", lambda _: Change(Pool()))
    monkeypatch.setattr(door, "read_instance", lambda: replace(ECS, type="ecs.t6-c1m1.large"))
    assert cli.main(["check", "allocator.yaml"]) == 0
    out = capsys.readouterr().out
    assert "instance: Alibaba Cloud, Alibaba Cloud ECS, ecs.t6-c1m1.large\n" in out
    assert "  ecs.t6-c1m1.large is of no security-enhanced family" in out
