"""The corpus of the fuzzers, replayed: what strangers may write harms no reader."""

from pathlib import Path

import pytest

from tests.soak.readers import CORPUS, READERS

FILES = sorted(path for path in CORPUS.glob("*/*"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_reader_of_what_strangers_write(path: Path) -> None:
    READERS[path.parent.name](path.read_bytes())


def test_every_reader_has_a_corpus() -> None:
    assert {path.parent.name for path in FILES} == READERS.keys()
