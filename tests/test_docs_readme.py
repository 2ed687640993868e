"""README.md and README.zh-CN.md show the same: commands, keys, links, in the same order. What they show is there."""

import re
from pathlib import Path

import pytest

from ali_enclaves_allocator import cli
from ali_enclaves_allocator.model.config import Config
from enclave_cli import cli as launcher
from tests.test_docs_pages import commands, options

ROOT = Path(__file__).parent.parent
ENGLISH = ROOT / "README.md"
CHINESE = ROOT / "README.zh-CN.md"

MOST_WORDS = 1200
"""What can be read in one sitting."""


def blocks(text: str) -> list[list[str]]:
    """Return the code blocks, without the comments in them."""
    found = re.findall(r"(?m)(?:^    .*\n|^\n(?=    ))+", text)
    lines = [[line.partition("  #")[0].strip() for line in block.splitlines()] for block in found]
    return [[line for line in block if line] for block in lines]


def shape(text: str) -> list[str]:
    """Return the order of headings, code blocks, table rows and links."""
    found = re.findall(r"(?m)^#+ |^    |^\||\]\([^)]*\)", text)
    return [part for part in found if "README" not in part]


def spans(text: str) -> list[str]:
    """Return everything in `code`, sorted: the order of words differs."""
    return sorted(re.findall(r"`[^`\n]+`", text))


def test_both_languages_show_the_same() -> None:
    english, chinese = ENGLISH.read_text(), CHINESE.read_text()
    assert len(blocks(english)) > 5
    assert blocks(english) == blocks(chinese)
    assert shape(english) == shape(chinese)
    assert spans(english) == spans(chinese)
    assert re.findall(r"\d+\.\d+", english) == re.findall(r"\d+\.\d+", chinese)
    assert "README.zh-CN.md" in english and "(README.md)" in chinese


def test_it_can_be_read_in_one_sitting() -> None:
    assert len(ENGLISH.read_text().split()) < MOST_WORDS


@pytest.mark.parametrize("path", [ENGLISH, CHINESE], ids=lambda path: path.name)
def test_links_lead_to_what_there_is(path: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)]*)\)", path.read_text()) if "://" not in link]
    assert links
    assert all((ROOT / link).exists() for link in links)
    assert all((ROOT / name).exists() for name in re.findall(r"docs/[\w./-]*\w", path.read_text()))


def test_the_commands_are_there() -> None:
    parsers = {"ali-enclaves-allocator": cli._parser(), "enclave-cli": launcher._parser()}
    programs = {name: commands(parser) | {o: {o} for o in options(parser)} for name, parser in parsers.items()}
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    shown = [line.split() for block in blocks(ENGLISH.read_text()) for line in block]
    for words in shown:
        if words[0] == "make":
            assert set(words[1:]) <= targets
        if words[0] in programs:
            assert {word for word in words if word.startswith("--")} <= programs[words[0]][words[1]]


def test_the_table_of_keys_is_whole() -> None:
    assert set(re.findall(r"(?m)^\| `(\w+)` \|", ENGLISH.read_text())) == set(Config.model_fields)
