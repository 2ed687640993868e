"""The ledger's file: believed whole or not at all, and written by one process at a time."""

import errno
import json
import os
from pathlib import Path

import pytest
from pydantic_core import to_json

from ali_enclaves_allocator.change.ledger import Ledger, Record, read
from ali_enclaves_allocator.model.errors import AlreadyRunning, KernelRefused, LedgerUnreadable
from ali_enclaves_allocator.model.pool import Pool
from tests.conftest import Boot
from tests.sim.effects import Died
from tests.sim.host import BOOT_ID, Host
from tests.sim.scenarios import LARGE, SCENARIOS, SMALL

ANOTHER_BOOT = "6f3c1a52-0000-4000-8000-000000000002"


@pytest.fixture
def half_way(boot: Boot) -> Host:
    """Return a host whose allocator died while it grew its pool: a pool, a phase and steps of every kind."""
    host = SCENARIOS["shrink the memory"].prepare(boot)
    host.configure(memory_mib=100, cpu_count=6, max_enclaves=2)
    host.effects.die_before("write 0")
    with pytest.raises(Died):
        host.start()
    assert {step.kind for step in host.record.steps} == {"cpu", "bank", "pages"}
    return host


def ledger_of(host: Host) -> Path:
    return host.directory / "ledger.json"


def assert_refused(host: Host, reason: str) -> None:
    """Check that neither start nor stop does anything at all with this ledger."""
    state, text = host.state, ledger_of(host).read_bytes()
    for run in (host.start, host.give_back, host.recover):
        with pytest.raises(LedgerUnreadable) as refused:
            run()
        assert host.done == []
    assert (host.state, ledger_of(host).read_bytes()) == (state, text)
    assert refused.value.path == str(ledger_of(host))
    assert reason in refused.value.reason
    assert str(refused.value).endswith(
        "; nothing was changed, and what it describes stays as it is\n"
        "  (start the version that wrote it, or reboot: the ledger and all it describes end with the boot)"
    )


def test_cut_at_any_byte_it_is_refused(half_way: Host) -> None:
    path = ledger_of(half_way)
    text = path.read_bytes()
    for length in range(len(text)):
        path.write_bytes(text[:length])
        with pytest.raises(LedgerUnreadable):
            read(path, BOOT_ID)
    path.write_bytes(text[: len(text) // 2])
    assert_refused(half_way, "Invalid JSON")


def test_with_zeros_from_any_byte_on_it_is_refused(half_way: Host) -> None:
    """As a file system may leave what was not yet on the disk; so does one that ends in more than was written."""
    path = ledger_of(half_way)
    text = path.read_bytes()
    for length in range(len(text)):
        path.write_bytes(text[:length].ljust(len(text), b"\0"))
        with pytest.raises(LedgerUnreadable):
            read(path, BOOT_ID)
    for tail in (b"\0", b"\n", text, text[:1]):
        path.write_bytes(text + tail)
        with pytest.raises(LedgerUnreadable):
            read(path, BOOT_ID)


def test_a_draft_cut_at_any_byte_counts_for_nothing(half_way: Host) -> None:
    """Whole or not, what is not in its place was never written: its change has not begun."""
    record, draft = half_way.record, half_way.directory / "ledger.new"
    newer = ledger_of(half_way).read_bytes().replace(b'"taking"', b'"giving"')
    for length in range(len(newer) + 1):
        draft.write_bytes(newer[:length])
        ledger = Ledger(half_way.directory, BOOT_ID)
        ledger.open()
        assert ledger.record == record
        ledger.close()
        assert not draft.exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 3}, "format 3, this version understands 2"),
        ({"version": 0}, "format 0, this version understands 2"),
        ({"version": 3, "pool": {"regions": []}}, "format 3, this version understands 2"),
        ({"version": 1, "pool": {"regions": []}}, "not as this version writes it"),
        ({"version": 1, "pool": None}, "pool: Input should be"),
        ({"pool": {"regions": []}}, "not as this version writes it"),
        ({"phase": "resting"}, "phase: Input should be"),
        ({"steps": [{"kind": "firmware"}]}, "steps.0"),
        ({"pool": None}, "pool: Input should be"),
        ({"boot_id": None}, "boot_id: Input should be a valid string"),
        ({"owner": "somebody"}, "not as this version writes it"),
    ],
    ids=str,
)
def test_of_another_format_it_is_refused(change: dict[str, object], reason: str, half_way: Host) -> None:
    path = ledger_of(half_way)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert_refused(half_way, reason)


def test_one_of_the_format_before_is_understood(half_way: Host) -> None:
    """Format 1 had no words for what its configurations could not have otherwise."""
    path = ledger_of(half_way)
    meant = read(path, BOOT_ID)
    written = json.loads(path.read_text()) | {"version": 1}
    for word in ("cpu_driver", "offline", "hold_memory"):
        del written["pool"]["config"][word]
    del written["pool"]["cpusets"]
    path.write_bytes(to_json(written, indent=1) + b"\n")
    assert read(path, BOOT_ID) == meant
    half_way.give_back()
    half_way.assert_untouched()


def test_a_missing_field_is_no_default(half_way: Host) -> None:
    path = ledger_of(half_way)
    whole = json.loads(path.read_text())
    for field in whole:
        path.write_text(json.dumps({name: value for name, value in whole.items() if name != field}))
        with pytest.raises(LedgerUnreadable, match=f"{field}|not as this version writes it"):
            read(path, BOOT_ID)


def test_not_readable_it_is_refused(half_way: Host) -> None:
    path = ledger_of(half_way)
    path.unlink()
    path.mkdir()
    with pytest.raises(LedgerUnreadable, match="Is a directory"):
        half_way.start()


def test_of_another_boot_it_says_nothing(half_way: Host) -> None:
    assert read(ledger_of(half_way), ANOTHER_BOOT) == Record(ANOTHER_BOOT)


def test_what_is_written_is_what_is_read(half_way: Host) -> None:
    path = ledger_of(half_way)
    ledger = Ledger(half_way.directory, BOOT_ID)
    ledger.open()
    written, record = path.read_bytes(), ledger.record
    ledger.save(phase=record.phase, steps=record.steps)
    ledger.close()
    assert path.read_bytes() == written
    assert half_way.record == record


def test_a_second_allocator_is_refused_and_the_first_keeps_its_lock(boot: Boot, half_way: Host) -> None:
    first, second, third = (Ledger(half_way.directory, BOOT_ID) for _ in range(3))
    first.open()
    for other in (second, third):
        with pytest.raises(AlreadyRunning) as refused:
            other.open()
        other.close()
    assert str(refused.value) == (
        f"cannot start: another allocator holds {half_way.directory / 'lock'}; nothing was changed\n"
        "  (systemctl status ali-enclaves-allocator)"
    )
    first.close()
    second.open()
    second.close()


def test_who_may_not_is_told_who_may(half_way: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(KernelRefused, match=r"/lock: only root may; nothing was changed$"):
        Ledger(half_way.directory, BOOT_ID).open()


def test_with_no_room_for_it_nothing_is_changed(boot: Boot) -> None:
    host = SCENARIOS["apply"].prepare(boot)
    host.effects.fail("ledger", errno.ENOSPC)
    with pytest.raises(KernelRefused) as refused:
        host.start()
    assert str(refused.value) == "cannot write the ledger: No space left on device; nothing was changed"
    host.assert_untouched()


@pytest.mark.parametrize("before", [None, SMALL], ids=["first", "later"])
def test_with_no_room_to_commit_all_is_undone(before: dict[str, int] | None, boot: Boot) -> None:
    host = SCENARIOS["apply"].prepare(boot)
    if before:
        host.configure(**before)
        host.start()
    former, state = host.record.pool, host.state
    host.configure(**LARGE)
    host.effects.after("ledger taking", lambda: host.effects.fail("ledger", errno.ENOSPC))
    with pytest.raises(KernelRefused) as refused:
        host.start()
    assert str(refused.value) == "cannot write the ledger: No space left on device; all changes undone"
    assert host.state == state
    assert host.record.phase == "taking", "the file could not be replaced"
    host.recover()
    host.assert_pool_stands()
    assert host.record.pool == former


def test_with_no_room_the_pool_can_still_be_given_back(boot: Boot) -> None:
    host = SCENARIOS["give back"].prepare(boot)
    host.effects.fail("ledger", errno.ENOSPC)
    with pytest.raises(KernelRefused) as refused:
        host.give_back()
    assert str(refused.value) == "cannot write the ledger: No space left on device; nothing was changed"
    host.assert_pool_stands()
    host.give_back()
    host.assert_untouched()
    assert host.record.pool == Pool()


def test_with_no_room_to_note_a_give_back_nothing_is_taken(boot: Boot) -> None:
    """The rest of an earlier give-back is done, but the ledger cannot be told; so it can be told nothing else."""
    host = SCENARIOS["shrink"].prepare(boot)
    host.effects.die_after("ledger giving")
    with pytest.raises(Died):
        host.start()
    host.configure(**LARGE)
    host.effects.fail("ledger", errno.ENOSPC)
    with pytest.raises(KernelRefused) as refused:
        host.start()
    assert str(refused.value) == "cannot write the ledger: it still names an earlier give-back; nothing was changed"
    host.start()
    host.assert_pool_stands()
    host.give_back()
    host.assert_untouched()


def test_a_damaged_file_costs_nothing_even_with_a_damaged_configuration(half_way: Host) -> None:
    half_way.config_path.write_text("memory_mib: two\n")
    ledger_of(half_way).write_text("{")
    assert_refused(half_way, "Invalid JSON")
