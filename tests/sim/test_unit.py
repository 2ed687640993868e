"""What the service tells systemd."""

import pytest

from ali_enclaves_allocator import unit


@pytest.mark.parametrize("letter", ["x", "é", "×"])
def test_a_long_status_is_cut_for_systemd_ignores_it(letter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(unit, "notify", told.append)
    unit.status(f"pool ready\n{letter * 5000}\n    set in")
    assert told[0].startswith(f"STATUS=pool ready; {letter}") and told[0].endswith(f"{letter}...")
    assert 2000 < len(told[0].encode()) < 4096


def test_the_text_of_a_file_does_not_get_into_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(unit, "notify", told.append)
    unit.status("a.yaml:1:9: wanted 2\n    cpus: x\n          ^\na.yaml:2:1: unknown key")
    assert told == ["STATUS=a.yaml:1:9: wanted 2; a.yaml:2:1: unknown key"]
