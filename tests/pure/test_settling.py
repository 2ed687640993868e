"""Settling, on files of any file system: what is cut, in which order, and what somebody gets who takes pages."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from ali_enclaves_allocator.kernel import settling
from ali_enclaves_allocator.kernel.settling import Settling
from ali_enclaves_allocator.model.pool import Bank

PAGE = 64 * 1024
BANK = Bank("bank0", 0, 64, 8)
ENDED = "lease-00000000000000ee"
LIVE = "lease-00000000000000aa"


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bank that has no room but what its files leave."""

    def statvfs(_: int) -> SimpleNamespace:
        return SimpleNamespace(f_bfree=BANK.pages - sum(pages(tmp_path).values()))

    monkeypatch.setattr(settling, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(settling.os, "statvfs", statvfs)
    return tmp_path


def pages(where: Path) -> dict[str, int]:
    return {path.name: path.stat().st_blocks * 512 // PAGE for path in where.iterdir()}


def fill(where: Path, name: str, count: int) -> None:
    """Make a file of so many pages. Not every file system frees what lies beyond a file's end, as hugetlbfs does."""
    with (where / name).open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, count * PAGE)


def test_what_a_lease_has_too_much_and_what_an_ended_one_had_is_held(where: Path) -> None:
    fill(where, LIVE, 5)
    fill(where, ENDED, 3)
    Settling(where, BANK, {LIVE.removeprefix("lease-"): 2}).run()
    assert pages(where) == {"hold": 6, LIVE: 2}
    assert (where / "hold").stat().st_size == 0


def thief(steals: Callable[[], bool]) -> Callable[[int, int, int], bool]:
    """Return an allocation before which somebody may have taken the page."""
    real = settling._allocated
    return lambda file, offset, length: not steals() and real(file, offset, length)


def test_who_takes_a_page_gets_no_second(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(where, ENDED, 8)
    with monkeypatch.context() as patched:
        patched.setattr(settling, "_allocated", thief(lambda: True))
        Settling(where, BANK, {}).run()
        assert pages(where) == {"hold": 0, ENDED: 7}
        assert (where / ENDED).stat().st_mode & 0o777 == 0, "nobody opens it anew"
    Settling(where, BANK, {}).run()
    assert pages(where) == {"hold": 8}


def test_a_page_that_comes_back_is_waited_for(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(where, ENDED, 8)
    asked: list[int] = []
    monkeypatch.setattr(settling, "_allocated", thief(lambda: asked.append(1) or 1 < len(asked) < 9))
    Settling(where, BANK, {}).run()
    assert pages(where) == {"hold": 8}


def test_what_a_holder_made_free_is_kept_for_it(where: Path) -> None:
    fill(where, "hold", 6)
    fill(where, LIVE, 2)
    os.truncate(where / LIVE, PAGE)
    live = Settling(where, BANK, {LIVE.removeprefix("lease-"): 2})
    assert live.done()
    assert not Settling(where, BANK, {}).done(), "when it has ended it is missed"


def test_time_runs_out_after_a_page_and_nothing_goes_with_pages_in_it(where: Path) -> None:
    fill(where, ENDED, 8)
    seen = []
    while not seen or seen[-1] != {"hold": 8}:
        Settling(where, BANK, {}, seconds=-1).run()
        seen.append(pages(where))
    assert seen[0] == {"hold": 1, ENDED: 7}
    assert [entry["hold"] for entry in seen[:8]] == list(range(1, 9))
