"""systemd's commands: what they say is what the operator reads."""

import errno

import pytest

from ali_enclaves_allocator.kernel import systemd as door


def test_what_a_command_prints() -> None:
    assert door.systemd("printf", "not-found\n") == "not-found\n"


def test_a_refusal_in_its_own_words() -> None:
    with pytest.raises(OSError) as refused:
        door.systemd("sh", "-c", "echo Failed to start: >&2; echo Access denied >&2; exit 4")
    assert (refused.value.errno, refused.value.strerror) == (errno.EIO, "sh: Failed to start: Access denied")


def test_a_silent_failure() -> None:
    with pytest.raises(OSError, match="false: exit status 1"):
        door.systemd("false")


def test_a_manager_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "ANSWER_S", 0.05)
    with pytest.raises(TimeoutError) as refused:
        door.systemd("sleep", "60")
    assert refused.value.strerror == "sleep: no answer from systemd in 0.05 s"
