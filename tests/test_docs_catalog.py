"""The journal catalog: journald compiles it, and it explains every event that has a MESSAGE_ID."""

import re
import shutil
import subprocess
from pathlib import Path
from uuid import UUID

import pytest

from ali_enclaves_allocator.model import events
from tests.foreign import command

CATALOG = Path(__file__).parent.parent / "systemd/ali-enclaves.catalog"
LONGEST_LINE = 80


def message_ids() -> list[UUID]:
    """Return the ids in the order of the code."""
    return [event["MESSAGE_ID"] for name, event in vars(events).items() if isinstance(event, dict) and name.isupper()]


def journalctl(root: Path, *options: str) -> str:
    """Run journalctl on a catalog database below a directory; this machine's own stays as it is."""
    done = subprocess.run(
        [*command("journalctl"), f"--root={root}", *options], check=True, capture_output=True, text=True
    )
    return done.stdout


@pytest.fixture
def compiled(tmp_path: Path) -> Path:
    """A root directory with nothing but the catalog, compiled."""
    directory = tmp_path / "usr/lib/systemd/catalog"
    directory.mkdir(parents=True)
    (tmp_path / "var/lib/systemd/catalog").mkdir(parents=True)
    shutil.copy(CATALOG, directory)
    journalctl(tmp_path, "--update-catalog")
    return tmp_path


def test_every_event_is_explained_and_nothing_else(compiled: Path) -> None:
    listed = journalctl(compiled, "--list-catalog").splitlines()
    assert sorted(line.split()[0] for line in listed) == sorted(id.hex for id in message_ids())
    assert re.findall(r"(?m)^-- (\w+)$", CATALOG.read_text()) == [id.hex for id in message_ids()]


@pytest.mark.parametrize("id", message_ids(), ids=lambda id: id.hex)
def test_an_entry_has_a_subject_and_advice(compiled: Path, id: UUID) -> None:
    text = journalctl(compiled, "--dump-catalog", id.hex)
    head, _, body = text.partition("\n\n")
    assert re.search(r"(?m)^Subject: [A-Z].*[^.]$", head)
    assert "Defined-By: ali-enclaves-allocator\nDocumentation: man:" in head
    assert len(body.split()) > 15
    assert all(len(line) < LONGEST_LINE for line in text.splitlines())
