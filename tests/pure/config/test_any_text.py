"""Whatever text: it is a configuration, or problems with a place in it, and soon."""

import re
import time

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from ali_enclaves_allocator.model import cpus
from ali_enclaves_allocator.model.config import Config, ConfigInvalid
from tests.pure.config.stand import layouts, read, refusal


@pytest.mark.parametrize(
    "text",
    [
        "[" * 30000,
        "[" * 30000 + "]" * 30000,
        "{" * 30000,
        "[\n" * 30000,
        "- " * 30000,
        "? " * 30000,
        "a: " + "[" * 30000,
        "&a " * 20000,
        "a: [" + "1," * 30000,
        "{" + "a: 1, " * 10000,
        "".join(f"cpu_count{number}: 1\n" for number in range(3500)),
        "".join("  " * depth + "a:\n" for depth in range(250)),
        "cpu_count: " + "0_" * 30000 + "x",
        "cpu_count: " + "1:0" * 20000 + "x",
        "cpu_pool: " + "0-8191," * 9000,
    ],
    ids=lambda text: text[:12].encode("unicode_escape").decode(),
)
def test_hostile_text_is_refused_soon(text: str) -> None:
    began = time.process_time()
    told = refusal(text)
    assert time.process_time() - began < 20
    assert len(told) < 10_000


KEY_WORDS = tuple(Config.model_fields)
VALUE_WORDS = ("1024", "2", "2M", "1G", "2-3", "012", "1:30", "~", "yes", "ä", "💥")


MARKS = (*"&*!|>-?:,[]{}#'\"%@`=\\", "!!", "<<", "---", "...", "%YAML", "&a", "*a", "!!int", '"\\ud800"')
SPACES = (" ", ": ", "\n", "\n", "\n ", "\r\n", "\r", "\t", "\0", "\x85", "\ufeff", "\u2028")


FRAGMENTS = st.sampled_from((*KEY_WORDS, *VALUE_WORDS, *MARKS, *SPACES))


def spoiled(layout: tuple[Config, bytes], at: int, lost: int, added: list[str]) -> bytes:
    _, text = layout
    return text[:at] + "".join(added).encode() + text[at + lost :]


TEXTS = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.lists(FRAGMENTS, max_size=30).map(lambda words: "".join(words).encode()),
    st.builds(spoiled, layouts(), st.integers(0, 200), st.integers(0, 3), st.lists(FRAGMENTS, max_size=3)),
)


@given(TEXTS)
@example(b'"\\ud800": 1\nhugepage_size: "\\ud800"\n')
@example(b"%YAML " + b"1" * 5000 + b".1\n---\na: 1")
@example(b"\xef\xbb\xbf\xef\xbb\xbf")
def test_any_bytes_are_a_config_or_problems_in_the_file(data: bytes) -> None:
    try:
        config = read(data)
    except ConfigInvalid as error:
        lines = data.decode("utf-8-sig", "surrogateescape").split("\n")
        assert error.problems
        for problem in error.problems:
            assert 1 <= problem.line <= len(lines)
            assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1
            assert 0 <= problem.caret <= len(problem.source_line)
        assert re.fullmatch(r"[^\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]*", str(error))
        str(error).encode()
    else:
        said = yaml.safe_load(data.decode("utf-8-sig"))
        pool = said.pop("cpu_pool", None)
        assert config == Config(**said, cpu_pool=pool if pool is None else cpus.parse(str(pool)))
