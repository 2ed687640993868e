"""Running an enclave: from the image to a VM that has used its CPUs, all or nothing.

Everything that can be refused is refused before the pool is asked. From then on a guard ends the enclave if this
process dies, until the enclave is up.
"""

import contextlib
import os
import select
import socket
import sys
import time

from enclave_cli import accel, allocator, console, eif, enclaves, failure, measurements, paths, qemu, vsock
from enclave_cli.failure import Failure
from enclave_cli.holder import Holder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from enclave_cli.options import Request
    from enclave_cli.settings import Settings

POLL_SECONDS = 0.02
LAST_LINES_SECONDS = 5.0
"""How long the last lines of a console may take that is shown."""

BOOT_NANOSECONDS = 10_000_000
"""The time that the first virtual CPU has used when we believe that it runs; the others wait for it."""


class Launch:
    """One launch; `progress` is told each phase."""

    def __init__(self, request: "Request", settings: "Settings", progress: "Callable[[str], None]") -> None:
        self.request, self.settings, self.progress = request, settings, progress
        self.qemu = settings.find_qemu()
        self.accel = request.accelerator(settings.accel)
        self.directory = ""
        self.lease: dict[str, Any] | None = None
        """Of an enclave that lives on without this process."""
        self.attached: console.Attached | None = None
        self.open = contextlib.ExitStack()

    def run(self) -> "dict[str, Any]":
        """Run the enclave; return its lease. Raises Failure."""
        with self.open:
            return self._run()

    def _run(self) -> "dict[str, Any]":
        request = self.request
        self.progress(f"reading image {request.eif_path}")
        image = self._read_image()
        measured = measurements.measure(image)
        if request.debug:
            measured = {name: "0" * len(value) for name, value in measured.items()}
        self._check_directory()
        accelerator = accel.choose(self.accel)
        vhost, cid = vsock.claim(request.cid)
        self.open.callback(os.close, vhost)
        listener = self.open.enter_context(vsock.listen(cid)) if image.metadata.get("heartbeat") is True else None
        fds = {"vsock": vhost, "kernel": image.kernel or 0} | ({"initrd": image.initrd} if image.initrd else {})
        recorded = None
        if request.debug:
            recorded, serial = socket.socketpair()
            fds["console"] = self.open.enter_context(serial).fileno()
        holder = Holder(
            lambda lease, fds: qemu.command(
                self.qemu, lease, image.cmdline, accelerator, cid, fds, os.path.join(lease["directory"], paths.MONITOR)
            ),
            fds,
        )
        try:
            lease = self._acquire(holder, enclaves.annotations(cid, request.eif_path, request.debug, measured))
            self._start(holder, lease, recorded, accelerator)
            if listener:
                self._hear(holder, listener, cid)
            else:
                self.progress("up: its CPUs run; its image sends no heartbeat")
        except BaseException:
            holder.kill()
            if self.attached:
                self.attached.wait(LAST_LINES_SECONDS)
            if self.directory:
                enclaves.remove_directory(self.directory)
            raise
        self.lease = lease
        holder.leave()
        return lease

    def _read_image(self) -> eif.Image:
        request, here = self.request, os.uname().machine
        image = eif.read(request.eif_path, keep=True, most_bytes=request.most_image_bytes)
        self.open.callback(eif.close, image)
        if image.architecture != here:
            why = f"architecture at offset 6: got {image.architecture}, wanted {here}, as this machine"
            raise eif.refusal(image.path, why)
        return image

    def _check_directory(self) -> None:
        if not os.path.isdir(paths.RUN):
            allocator.leases()  # it comes with the allocator: whoever has not started that is told so
            why, status, hint = "it is not there", failure.MACHINE_LACKS, f"systemctl restart '{paths.RUN_UNIT}'"
        elif not os.access(paths.RUN, os.W_OK | os.X_OK):
            why, status = "this user may not write there", failure.NOT_PERMITTED
            hint = "join the group de: usermod -aG de USER, then log in again"
        else:
            return enclaves.clear_away()
        raise Failure(status, f"cannot use {paths.RUN}: {why}; nothing was taken from the pool ({hint})")

    def _acquire(self, holder: Holder, annotations: "dict[str, Any]") -> "dict[str, Any]":
        request = self.request
        cpus = _named(request.cpus) if request.cpus else f"{request.cpu_count} CPU{'s' * (request.cpu_count != 1)}"
        self.progress(f"taking cores and memory: {cpus}, {request.memory_mib} MiB")
        wanted = {"name": request.name, "memory_mib": request.memory_mib, "online": True, "annotations": annotations}
        wanted |= {"cpus": request.cpus} if request.cpus else {"cpu_count": request.cpu_count}
        lease = holder.acquire(wanted)
        return lease | {"annotations": annotations, "holder": lease["holder"] | {"pid": holder.pid}}

    def _start(self, holder: Holder, lease: "dict[str, Any]", recorded: socket.socket | None, accelerator: str) -> None:
        """Start QEMU, give its threads their CPUs, let it run and see that it does."""
        cpus = _named(lease["cpus"])
        how = {"kvm": "on the processor", "tcg": "emulated"}[accelerator]
        self.progress(f"starting {enclaves.enclave_id(lease)} on {cpus} with {lease['memory_mib']} MiB, {how}")
        self._make_directory(enclaves.new_directory(lease["id"]))
        if recorded:
            recorder = console.record(recorded, self.directory)
            if self.request.attach:
                self.attached = console.Attached(self.directory, recorder, sys.stderr.fileno())
        holder.start(self.directory)
        deadline = time.monotonic() + self.settings.start_seconds
        try:
            with contextlib.closing(self._monitor(holder, deadline)) as monitor:
                self._let_run(holder, monitor, lease["cpus"], deadline)
        except OSError as error:
            if holder.ended(1.0):
                raise self._ended(holder, "as it started") from None
            raise Failure(failure.NOT_STARTED, f"cannot start the enclave: {error}; ended it") from None

    def _make_directory(self, path: str) -> None:
        """Make the directory of the enclave."""
        try:
            os.mkdir(path, 0o700)
        except OSError as error:
            why = f"cannot start the enclave: cannot make {path}: {error.strerror}; ended it (see: ls -l {paths.RUN})"
            raise Failure(failure.NOT_STARTED, why) from None
        self.directory = path

    def _monitor(self, holder: Holder, deadline: float) -> qemu.Monitor:
        path = os.path.join(self.directory, paths.MONITOR)
        while not holder.ended(POLL_SECONDS):
            try:
                return qemu.Monitor(path, self.settings.start_seconds)
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > deadline:
                    raise self._late("QEMU to open its monitor", "start_seconds") from None
        raise holder.failure("before it opened its monitor")

    def _let_run(self, holder: Holder, monitor: qemu.Monitor, cpus: list[int], deadline: float) -> None:
        vcpus = monitor.vcpu_threads()
        qemu.pin(holder.pid, vcpus, cpus)
        before = [qemu.nanoseconds(holder.pid, thread) for thread in vcpus]
        monitor.execute("cont")
        while time.monotonic() < deadline:
            if holder.ended(POLL_SECONDS):
                raise self._ended(holder, "as it started")
            used = [qemu.nanoseconds(holder.pid, vcpu) - then for vcpu, then in zip(vcpus, before, strict=True)]
            running = monitor.execute("query-status")["status"] == "running"
            if running and used[0] >= BOOT_NANOSECONDS and all(used):
                return qemu.pin(holder.pid, vcpus, cpus)  # threads that came since
        raise self._late("its CPUs to run", "start_seconds")

    def _ended(self, holder: Holder, when: str) -> Failure:
        """Return the failure of an enclave that ran and ended; its console may say why."""
        return holder.failure(when, "" if self.request.attach else "what it says: run it with --attach-console")

    def _late(self, awaited: str, setting: str) -> Failure:
        """Return the failure of what did not come in time."""
        seconds = getattr(self.settings, setting)
        return Failure(
            failure.NOT_STARTED,
            f"cannot start the enclave: waited {seconds} s for {awaited}; ended it "
            f"(on a slow machine set {setting}= in {paths.SETTINGS})",
        )

    def _hear(self, holder: Holder, listener: socket.socket, cid: int) -> None:
        """Wait for the heartbeat that the image promised."""
        self.progress("waiting for its heartbeat")
        deadline = time.monotonic() + self.settings.heartbeat_seconds
        while (left := deadline - time.monotonic()) > 0:
            ready = select.select([listener.fileno(), holder.pidfd], [], [], left)[0]
            if holder.pidfd in ready:
                raise self._ended(holder, "before its heartbeat")
            if ready and vsock.heard(listener, cid):
                return self.progress("up: it has sent its heartbeat")
        raise self._late("the heartbeat that the image promises", "heartbeat_seconds")


def _named(cpus: list[int]) -> str:
    """Name CPUs in a sentence, as the allocator does: `CPU 3`, `CPUs 2-3,6`."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][-1] + 1:
            runs[-1][1:] = [cpu]
        else:
            runs.append([cpu])
    return f"CPU{'s' * (len(cpus) != 1)} {','.join('-'.join(map(str, run)) for run in runs)}"
