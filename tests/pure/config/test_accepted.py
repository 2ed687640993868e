"""Files that are taken, in every layout, and what they mean."""

from textwrap import dedent

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ali_enclaves_allocator.model import yamltext
from ali_enclaves_allocator.model.config import Config, load
from tests.pure.config.stand import CONFIGS, DOCUMENTED, SHIPPED, layouts, read


def test_shipped_file() -> None:
    assert read(SHIPPED.read_bytes()) == DOCUMENTED


@pytest.mark.parametrize(
    "text",
    [
        "memory_mib: 1024\ncpu_count: 2\n",
        "cpu_count: 2\nmemory_mib: 1024",
        "memory_mib: 1024\r\ncpu_count: 2\r\n",
        "\ufeffmemory_mib: 1024\ncpu_count: 2\n",
        "---\nmemory_mib: 1024\ncpu_count: 2\n",
        "%YAML 1.1\n---\nmemory_mib: 1024\ncpu_count: 2\n...\n",
        "memory_mib: 1024\ncpu_count: 2\n...\n# the end\n",
        "\n\n# Größe\nmemory_mib: 1024   # MiB\n\n  # indented\ncpu_count:    2 \n\n",
        "  memory_mib: 1024\n  cpu_count: 2\n",
        "memory_mib:\n  1024\ncpu_count:\n  2\n",
        "'memory_mib': 1024\n\"cpu_count\": 2\n",
        '{"memory_mib": 1024, "cpu_count": 2}',
        "# a tab\tin a comment\nmemory_mib: 1024\ncpu_count: 2\n",
    ],
)
def test_layouts(text: str) -> None:
    assert read(text) == DOCUMENTED


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("cpu_pool: 2-3,6-7", (2, 3, 6, 7)),
        ('cpu_pool: "2-3, 6-7"', (2, 3, 6, 7)),
        ("cpu_pool: 2-3,\n  6-7", (2, 3, 6, 7)),
        ("cpu_pool: 3", (3,)),
        ("cpu_pool: '3'", (3,)),
        ("cpu_pool: 0-7:2/4", (0, 1, 4, 5)),
    ],
)
def test_cpu_pool(line: str, expected: tuple[int, ...]) -> None:
    config = read(f"memory_mib: 1\n{line}\n")
    assert (config.cpu_pool, config.cpu_count) == (expected, None)


def test_every_key() -> None:
    text = "memory_mib: 4096\ncpu_count: 4\nhugepage_size: 1G\nmax_enclaves: 2\nhost_memory_mib: 2048\n"
    assert read(text) == Config(memory_mib=4096, cpu_count=4, hugepage_size="1G", max_enclaves=2, host_memory_mib=2048)


def test_later_problem_at_its_place() -> None:
    _, source = load(b"memory_mib: 1024\ncpu_count: 3\n", "allocator.yaml")
    told = """\
        allocator.yaml:2:12: cpu_count: must be whole cores, got 3; the nearest are 2 and 4
            cpu_count: 3
                       ^"""
    assert str(source.problem("cpu_count", "must be whole cores, got 3; the nearest are 2 and 4")) == dedent(told)
    assert str(source.problem("host_memory_mib", "too much")) == "allocator.yaml:1:1: host_memory_mib: too much"


def test_config_in_python() -> None:
    config = Config(memory_mib=1, cpu_pool=(2, 3))
    assert Config.model_validate_json(config.model_dump_json()) == config
    assert '"cpu_pool":"2-3"' in config.model_dump_json()
    with pytest.raises(ValidationError):
        config.memory_mib = 2  # type: ignore[misc]


@given(layouts())
def test_every_layout_reads_alike(drawn: tuple[Config, bytes]) -> None:
    config, text = drawn
    assert read(text) == config


@given(CONFIGS, st.sampled_from([True, False]))
def test_what_yaml_dumps_is_read(config: Config, flow: bool) -> None:
    values = config.model_dump(mode="json", exclude_none=True)
    assert read(yaml.safe_dump(values, default_flow_style=flow, width=1 << 16)) == config


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("", True),
        ("hold_memory: true", True),
        ("hold_memory: FALSE", False),
        ("cpu_driver: sysfs", True),
        ("cpu_driver: nitro_enclaves", False),
        ("hold_memory: false\ncpu_driver: nitro_enclaves", False),
    ],
)
def test_memory_is_held_unless_the_driver_has_the_cpus(text: str, held: bool) -> None:
    assert read(f"memory_mib: 1\ncpu_count: 2\n{text}").hold_memory is held


def test_limit_is_inclusive() -> None:
    text = b"memory_mib: 1024\ncpu_count: 2\n#"
    assert read(text.ljust(yamltext.MAX_BYTES, b"#")) == DOCUMENTED
