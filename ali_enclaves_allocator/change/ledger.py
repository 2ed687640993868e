"""The ledger: the write-ahead record of what was changed on this machine, in the run directory.

One file, replaced whole. It is written before the first kernel setting of a change and once more when the change
is committed, and it names everything that outlives the process. It is checked before it is believed.
"""

import fcntl
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from ali_enclaves_allocator.change.steps import Step
from ali_enclaves_allocator.model.errors import AlreadyRunning, KernelRefused, LedgerUnreadable
from ali_enclaves_allocator.model.pool import Pool

VERSION = 2
"""Of the file's format; a reader refuses a later one."""

ALWAYS_IN_1 = {"cpu_driver": "sysfs", "offline": "always", "hold_memory": True}
"""What every configuration of format 1 meant, which had no words for it."""

LOCK_POLL_S = 0.1

Phase = Literal["idle", "taking", "giving"]


@dataclass(frozen=True)
class Record:
    """What the ledger says.

    `idle`: the pool stands and nothing is under way. `taking`: `steps` are being applied and are not committed, so
    after a crash they are taken back. `giving`: the pool is decided and `steps` remain to be carried out, whatever
    happens; they can be carried out twice.
    """

    boot_id: str
    pool: Pool = field(default_factory=Pool)
    phase: Phase = "idle"
    steps: tuple[Step, ...] = ()
    version: int = VERSION


_RECORD = TypeAdapter(Record)


class Ledger:
    """The ledger file, and the lock that makes this process its only writer."""

    def __init__(self, directory: Path, boot_id: str) -> None:
        self._path = directory / "ledger.json"
        self._draft_path = directory / "ledger.new"
        self._lock_path = directory / "lock"
        self._lock: int | None = None
        self.record = Record(boot_id)

    def open(self, wait_s: float = 0, in_vain: Callable[[], bool] = lambda: False) -> None:
        """Take the lock and read the file. A missing one, or one of an earlier boot, says that nothing is changed.

        Raises:
            AlreadyRunning: another process had the lock for all of `wait_s` seconds, or will not give it up soon.
            LedgerUnreadable: the file is damaged, or of another version.
            KernelRefused: the run directory cannot be written; only root may.
        """
        try:
            self._lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except PermissionError as error:
            raise KernelRefused(f"open {self._lock_path}", "only root may") from error
        except OSError as error:
            raise KernelRefused.of(f"open {self._lock_path}", error) from error
        deadline = time.monotonic() + wait_s
        while not _locked(self._lock):
            if time.monotonic() >= deadline or in_vain():
                self.close()
                raise AlreadyRunning(str(self._lock_path))
            time.sleep(LOCK_POLL_S)
        self._draft_path.unlink(missing_ok=True)  # of a predecessor that died before it was put in place
        self.record = read(self._path, self.record.boot_id)

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def save(self, *, pool: Pool | None = None, phase: Phase = "idle", steps: tuple[Step, ...] = ()) -> None:
        """Replace the file. Where nothing is left of ours, remove it.

        Raises:
            OSError: it could not be written; the former record stays, in the file and in `record`.
        """
        record = replace(self.record, pool=self.record.pool if pool is None else pool, phase=phase, steps=steps)
        if record.pool == Pool() and not steps:
            self._path.unlink(missing_ok=True)
        else:
            self._draft_path.write_bytes(_text(record))
            self._draft_path.replace(self._path)
        self.record = record


def _locked(fd: int) -> bool:
    """Take a file's lock if nobody has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def read(path: Path, boot_id: str) -> Record:
    """Read the ledger without taking its lock.

    Raises:
        LedgerUnreadable: the file is damaged, or of another version.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return Record(boot_id)
    except OSError as error:
        raise LedgerUnreadable(str(path), error.strerror or str(error)) from error
    text = _upgraded(text)
    try:
        record = _RECORD.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise LedgerUnreadable(str(path), f"{where}: {first['msg']}") from error
    if record.version != VERSION:
        raise LedgerUnreadable(str(path), f"format {record.version}, this version understands {VERSION}")
    if _text(record) != text:  # a field is missing, unknown or of another type: a default would be a guess
        raise LedgerUnreadable(str(path), "it is not as this version writes it")
    return record if record.boot_id == boot_id else Record(boot_id)


def _upgraded(text: bytes) -> bytes:
    """Return what this version would have written where an earlier one wrote this; any other text as it is."""
    try:
        document = from_json(text)
    except ValueError:
        return text
    match document:
        case {"version": 1, "pool": dict(pool)}:
            pool |= {"cpusets": []}
            if isinstance(config := pool.get("config"), dict):
                config |= ALWAYS_IN_1
        case _:
            return text
    return to_json(document | {"version": VERSION}, indent=1) + b"\n"


def _text(record: Record) -> bytes:
    """Return the file's bytes; there is one way to write a record."""
    return _RECORD.dump_json(record, indent=1) + b"\n"
