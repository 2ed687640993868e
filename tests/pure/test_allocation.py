"""Pages beyond a file's end."""

import ctypes
import errno
from pathlib import Path

import pytest

from ali_enclaves_allocator.kernel import allocation


def test_a_signal_is_no_reason_to_give_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop and a continuation interrupt fallocate(2) as any signal does."""
    real, codes = allocation._libc.fallocate, [errno.EINTR, errno.EINTR]

    class Interrupted:
        def fallocate(self, *arguments: object) -> int:
            if codes:
                ctypes.set_errno(codes.pop())
                return -1
            return int(real(*arguments))

    monkeypatch.setattr(allocation, "_libc", Interrupted())
    with (tmp_path / "file").open("w+b") as file:
        allocation.allocate_hidden(file.fileno(), 0, 8192)
        assert (file.seek(0, 2), (tmp_path / "file").stat().st_blocks * 512) == (0, 8192)
        codes.append(errno.ENOSPC)
        with pytest.raises(OSError, match="No space left"):
            allocation.allocate_hidden(file.fileno(), 8192, 4096)
