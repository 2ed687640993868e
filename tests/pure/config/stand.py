"""How the tests read a text."""

import json
from pathlib import Path

import pytest
from hypothesis import strategies as st

from ali_enclaves_allocator.model import cpus
from ali_enclaves_allocator.model.config import MAX_MEMORY_MIB, Config, ConfigInvalid, load

SHIPPED = Path(__file__).parents[3] / "etc/ali-enclaves/allocator.yaml"
DOCUMENTED = Config(memory_mib=1024, cpu_count=2)


def read(text: str | bytes) -> Config:
    return load(text.encode() if isinstance(text, str) else text, "allocator.yaml")[0]


def refusal(text: str | bytes) -> str:
    with pytest.raises(ConfigInvalid) as caught:
        read(text)
    assert caught.value.exit_code == 78
    return caught.value.what()


CONFIGS = st.builds(
    lambda cores, mode, **rest: Config(**cores, **mode, **rest),
    st.one_of(
        st.builds(lambda count: {"cpu_count": count}, st.integers(1, cpus.MAX_CPUS)),
        st.builds(lambda pool: {"cpu_pool": tuple(sorted(pool))}, st.sets(st.integers(0, 300), min_size=1)),
    ),
    memory_mib=st.integers(1, MAX_MEMORY_MIB),
    hugepage_size=st.sampled_from(["2M", "1G"]),
    max_enclaves=st.integers(1, cpus.MAX_CPUS),
    host_memory_mib=st.integers(64, MAX_MEMORY_MIB),
    mode=st.sampled_from([{}, {"offline": "leased"}, {"hold_memory": False}, {"cpu_driver": "nitro_enclaves"}]),
)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Config, bytes]:
    """Draw a configuration and one of the many ways to write it down."""
    config = draw(CONFIGS)
    values = config.model_dump(mode="json", exclude_none=True)
    written = []
    for key in draw(st.permutations(list(values))):
        word = json.dumps(values[key]) if isinstance(values[key], bool) else str(values[key])
        if isinstance(values[key], str):
            word = draw(st.sampled_from([word, f"'{word}'", f'"{word}"']))
        space = " " * draw(st.integers(1, 4))
        written.append(draw(st.sampled_from(["", "\n", "# a comment: x\n", "   # [\n"])))
        written.append(f"{key}:{space}{word}{draw(st.sampled_from(['', ' ', ' # why: because']))}\n")
    text = draw(st.sampled_from(["", "---\n", "%YAML 1.1\n--- # start\n"])) + "".join(written)
    text += draw(st.sampled_from(["", "\n\n", "...\n"]))
    text = text.rstrip("\n") if draw(st.booleans()) else text
    text = text.replace("\n", draw(st.sampled_from(["\n", "\r\n"])))
    return config, text.encode(draw(st.sampled_from(["utf-8", "utf-8-sig"])))
