"""The calls of systemd's manager, against one that another library speaks for."""

import errno
import gc
import os
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from jeepney import HeaderFields, Message

from ali_enclaves_allocator.kernel import hugetlbfs, sdbus, systemd
from ali_enclaves_allocator.model.pool import Bank
from tests.sim.manager import JOB, Answer, Call, Manager, job, refused, removed, returned

MANAGER = "/org/freedesktop/systemd1"
SCOPE = "/org/freedesktop/systemd1/unit/a_2escope"

Speak = Callable[..., Manager]


@pytest.fixture
def speak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Speak]:
    """Have a manager that answers so; after the test no descriptor is left of it, nor of us."""
    before = len(os.listdir("/proc/self/fd"))
    path = tmp_path / "private"
    monkeypatch.setattr(sdbus, "ADDRESS", f"unix:path={path}")
    yield lambda welcome=None, **answers: Manager(path, answers, *([] if welcome is None else [welcome]))
    assert len(os.listdir("/proc/self/fd")) == before


@contextmanager
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Wait for an answer for a moment only, and for none."""
    monkeypatch.setattr(sdbus, "ANSWER_S", 0.2)
    with pytest.raises(TimeoutError) as silent:
        yield
    assert silent.value.strerror == "no answer from systemd in 0.2 s"


def test_a_unit_is_started_and_stopped(speak: Speak) -> None:
    with speak(StartUnit=job(), StopUnit=job()) as manager:
        systemd.start("a.slice")
        systemd.stop("a.slice")
    assert manager.calls == [
        Call(MANAGER, "StartUnit", "ss", ("a.slice", "replace")),
        Call(MANAGER, "StopUnit", "ss", ("a.slice", "replace")),
    ]


def test_every_kind_of_property_is_what_the_manager_reads(speak: Speak) -> None:
    with speak(StartTransientUnit=job()) as manager:
        systemd.start_transient(
            "a.scope",
            systemd.text("Description", "Enclave VM café"),
            systemd.numbers("PIDs", [1, 4_194_304]),
            systemd.duration("TimeoutStopUSec", 5 << 32),
            systemd.cpu_mask("AllowedCPUs", {0, 9, 16}),
        )
    [call] = manager.calls
    assert call.signature == "ssa(sv)a(sa(sv))"
    assert call.arguments == (
        "a.scope",
        "fail",
        [
            ("Description", ("s", "Enclave VM café")),
            ("PIDs", ("au", [1, 4_194_304])),
            ("TimeoutStopUSec", ("t", 5 << 32)),
            ("AllowedCPUs", ("ay", b"\x01\x02\x01")),
        ],
        [],
    )


def test_what_is_set_is_set_until_the_next_boot(speak: Speak) -> None:
    answers: dict[str, Answer] = {name: lambda call: [returned(call)] for name in ("SetUnitProperties", "Reload")}
    with speak(**answers, RevertUnitFiles=lambda call: [returned(call, "a(sss)", [])]) as manager:
        systemd.set_runtime("a.slice", systemd.cpu_mask("AllowedCPUs", ()))
        systemd.revert("a.slice")
    assert [(call.name, call.arguments) for call in manager.calls] == [
        ("SetUnitProperties", ("a.slice", True, [("AllowedCPUs", ("ay", b""))])),
        ("RevertUnitFiles", (["a.slice"],)),
        ("Reload", ()),
    ]


def test_a_job_is_waited_for_whatever_else_is_told(speak: Speak) -> None:
    """The result of another job, one that is told before the reply, and the reply to another call."""
    others = [removed("failed", "/org/freedesktop/systemd1/job/8")] * 50

    def stray(call: Message) -> Message:
        reply = returned(call, "o", "/org/freedesktop/systemd1/job/8")
        reply.header.fields[HeaderFields.reply_serial] = 8
        return reply

    with speak(
        StartUnit=lambda call: [*others, stray(call), returned(call, "o", JOB), *others, removed("done")],
        StopUnit=lambda call: [removed("done"), returned(call, "o", JOB), *others],
    ):
        systemd.start("a.slice")
        systemd.stop("a.slice")


def test_a_job_that_fails_is_told_with_its_result_and_where_to_look(speak: Speak) -> None:
    with speak(StartUnit=job("dependency")), pytest.raises(OSError) as failed:
        systemd.start("a.mount")
    assert (failed.value.errno, failed.value.strerror) == (
        errno.EIO,
        "systemd: the job of a.mount ended so: dependency; see: journalctl -u 'a.mount'",
    )


def test_a_job_that_has_nothing_to_do_has_not_failed(speak: Speak) -> None:
    with speak(StartUnit=job("skipped")):
        systemd.start("a.mount")


@pytest.mark.parametrize(
    ("told", "words"), [(("Unit a is gone.",), "Unit a is gone."), ((), "org.freedesktop.systemd1.NoSuchUnit")]
)
def test_a_refusal_is_told_in_its_own_words(speak: Speak, told: tuple[str, ...], words: str) -> None:
    with speak(StopUnit=lambda call: [refused(call, *told)]), pytest.raises(OSError) as failed:
        systemd.stop("a.scope")
    assert (failed.value.errno, failed.value.strerror) == (errno.EIO, f"systemd: {words}")


@pytest.mark.parametrize(("state", "active"), [("inactive", False), ("active", True), ("deactivating", True)])
def test_whether_a_unit_is_active(speak: Speak, state: str, active: bool) -> None:
    with speak(
        LoadUnit=lambda call: [returned(call, "o", SCOPE)], Get=lambda call: [returned(call, "v", ("s", state))]
    ) as manager:
        assert systemd.is_active("a.scope") is active
    assert [(call.path, call.arguments) for call in manager.calls] == [
        (MANAGER, ("a.scope",)),
        (SCOPE, ("org.freedesktop.systemd1.Unit", "ActiveState")),
    ]


def test_the_job_of_the_own_unit(speak: Speak) -> None:
    def get(call: Message) -> list[Message]:
        [_, name] = call.body
        value = ("(uo)", (7, JOB)) if name == "Job" else ("s", "restart")
        return [returned(call, "v", value)]

    with speak(Get=get) as manager:
        assert systemd.job_of_own_unit() == "restart"
    assert [call.path for call in manager.calls] == [f"{MANAGER}/unit/self", JOB]


def test_no_job_of_the_own_unit(speak: Speak) -> None:
    with speak(Get=lambda call: [returned(call, "v", ("(uo)", (0, "/")))]):
        assert systemd.job_of_own_unit() == ""


def test_a_manager_that_does_not_let_us_in(speak: Speak, monkeypatch: pytest.MonkeyPatch) -> None:
    with speak(welcome=b"") as manager, impatient(monkeypatch):
        systemd.start("a.slice")
    assert manager.calls == []


@pytest.mark.parametrize("answer", [lambda call: [], lambda call: [returned(call, "o", JOB)]], ids=["reply", "job"])
def test_a_manager_that_hangs(speak: Speak, monkeypatch: pytest.MonkeyPatch, answer: Answer) -> None:
    with speak(StartUnit=answer) as manager, impatient(monkeypatch):
        systemd.start("a.slice")
    assert len(manager.calls) == 1


def test_a_manager_that_tells_much_but_not_the_end(speak: Speak, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(call: Message) -> Iterator[Message]:
        while True:
            yield removed("done", "/org/freedesktop/systemd1/job/8")

    with speak(StartUnit=endless), impatient(monkeypatch):
        systemd.start("a.slice")


@pytest.mark.parametrize("answers", [[], ["o"]], ids=["before the reply", "before the end of the job"])
def test_a_manager_that_goes(speak: Speak, answers: list[str]) -> None:
    def go(call: Message) -> Iterator[Message]:
        yield from (returned(call, signature, JOB) for signature in answers)
        raise ConnectionError

    with speak(StartUnit=go), pytest.raises(ConnectionResetError) as gone:
        systemd.start("a.slice")
    assert gone.value.strerror == "systemd went away before it answered"


def test_a_manager_that_makes_its_socket_anew(speak: Speak, tmp_path: Path) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_path / "private"))  # and nobody listens
    manager = speak(StartUnit=job())

    def execute_itself() -> None:
        stale.close()
        manager.path.unlink()
        manager.__enter__()

    timer = threading.Timer(0.2, execute_itself)
    timer.start()
    systemd.start("a.slice")
    timer.join()
    manager.__exit__()
    assert len(manager.calls) == 1


def test_no_manager(speak: Speak, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdbus, "AWAY_S", 0.1)
    with pytest.raises(OSError) as failed:
        systemd.start("a.slice")
    assert failed.value.errno == errno.ENOENT
    assert failed.value.strerror == f"systemd cannot be reached ({sdbus.ADDRESS}): No such file or directory"


def test_nothing_is_kept_of_a_connection(speak: Speak, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each connection, and each message that was made or came, is given up."""
    called: Counter[str] = Counter()

    class Counting:
        def __getattr__(self, name: str) -> object:
            called[name] += 1
            return getattr(sdbus.ctypes.CDLL("libsystemd.so.0"), name)

    gc.collect()  # of tests before, whose errors keep theirs
    with speak(StartUnit=job()):
        monkeypatch.setattr(sdbus, "_library", Counting())
        systemd.start("a.slice")
    assert called["sd_bus_new"] == called["sd_bus_unref"] == 1
    assert called["sd_bus_message_unref"] == 3, "the call, its reply, and the end of its job"


@pytest.mark.parametrize("gone", [True, False], ids=["it is unmounted", "it is not"])
def test_an_unmount_whose_answer_is_lost(gone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = Bank("bank0", 0, 2048, 1)
    where = tmp_path / "banks" / bank.name
    where.mkdir(parents=True)
    mounted = {where}

    def stop(_: str) -> None:
        mounted.difference_update({where} if gone else ())
        raise TimeoutError(errno.ETIMEDOUT, "no answer")

    monkeypatch.setattr(systemd, "stop", stop)
    monkeypatch.setattr(Path, "is_mount", lambda path: path in mounted)
    monkeypatch.setattr(hugetlbfs, "_pages_of_nobody", lambda _: 0)  # of a file system that is not only ours
    with nullcontext() if gone else pytest.raises(TimeoutError):
        hugetlbfs.LinuxBanks(where.parent).unmount(bank)
    assert where.exists() is not gone


def test_signals_do_not_cut_a_wait_short(speak: Speak) -> None:
    caught = []
    former = signal.signal(signal.SIGALRM, lambda number, frame: caught.append(number))

    def late(call: Message) -> Iterator[Message]:
        yield returned(call, "o", JOB)
        time.sleep(0.3)
        yield removed("done")

    try:
        with speak(StartUnit=late):
            signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
            systemd.start("a.slice")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
    assert caught


@given(st.text(st.characters(exclude_characters="\0\n", codec="utf-8"), min_size=1, max_size=14))
def test_a_mount_has_the_name_that_systemd_gives_it(name: str) -> None:
    """A unit's name has 255 letters at most."""
    where = f"/run/{name.replace('/', 'x')}"
    assume(name not in (".", ".."))
    escaped = subprocess.run(
        ["systemd-escape", "--path", "--suffix=mount", where], capture_output=True, text=True, check=True
    )
    assert systemd.mount_unit(Path(where)) == escaped.stdout.strip()
