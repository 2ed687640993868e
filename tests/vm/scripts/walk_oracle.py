"""The oracle of a walk: /sys and /proc, and what the walk itself did. The daemon's word is compared, not believed."""

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import walk_service as service
from walk_file import File
from walk_others import Others, host_tasks, look, online
from walk_service import SECONDS, parsed
from walk_tenants import WHOLE, Tenant

CGROUP = Path("/sys/fs/cgroup")
SLICE = CGROUP / "enclaves.slice"
RUN = Path("/run/ali-enclaves")
BANKS = RUN / "banks"
LOOK_SECONDS = 5.0
PAGE_KIB = {"2M": 2048, "1G": 1 << 20}

Tenants = dict[str, Tenant]


class Broken(Exception):
    """Something is not as it must be."""


class Witness(threading.Thread):
    """Looks all the time, also while things change, at what no moment may break."""

    PAUSE_SECONDS = 0.05

    def __init__(self, others: Others, tenants: Tenants) -> None:
        super().__init__(daemon=True)
        self._others, self._tenants = others, tenants
        self.seen: list[str] = []
        self.looks = 0

    def run(self) -> None:
        """Look until the walk ends. A lease whose end has begun since is nobody's business any more."""
        while True:
            before = dict(self._tenants)
            for tenant, wrong in moment(self._others, before):
                if tenant is None or tenant.id in self._tenants:
                    self.seen.append(f"for a moment: {wrong}")
            self.looks += 1
            time.sleep(self.PAUSE_SECONDS)


def moment(others: Others, tenants: Tenants) -> Iterator[tuple[Tenant | None, str]]:
    """Tell what is wrong with the CPUs, and whose lease that breaks."""
    there, hosts = online(), parsed((CGROUP / "cpuset.cpus.effective").read_text())
    if not others.host_core <= there:
        yield None, f"the core of CPU 0 is {sorted(others.host_core)}, online are {sorted(there)}"
    owners: dict[int, str] = {}
    for tenant in tenants.values():
        if again := [cpu for cpu in tenant.cpus if owners.setdefault(cpu, tenant.id) != tenant.id]:
            yield tenant, f"lease {tenant} has CPUs {again} of another, {owners}"
        if not tenant.online and tenant.cpus & there:
            yield tenant, f"CPUs of the offline lease {tenant} are online: {sorted(there)}"
        if tenant.online and not tenant.cpus <= there:
            yield tenant, f"CPUs of the online lease {tenant} are offline: online are {sorted(there)}"
        if tenant.online and tenant.cpus & hosts:
            yield tenant, f"the host may run on CPUs of the lease {tenant}: it has {sorted(hosts)}"


class Oracle:
    """What must hold after each step."""

    def __init__(self, others: Others, tenants: Tenants) -> None:
        self.others, self.tenants = others, tenants
        self.running = False
        self.force: File | None = None
        """The file in force."""
        self.refused = False
        """Whether a newer one was refused."""
        self.whole = True
        """Whether the pool is what the file in force asks; a stop leaves of it what leases hold."""
        self.around: set[object] = set()
        """What the pool was chosen around: leases, CPUs of others. Without one of them a restart chooses anew."""
        self._witness = Witness(others, tenants)
        self._witness.start()

    @property
    def looks(self) -> int:
        """How often the witness has looked."""
        return self._witness.looks

    def judge(self) -> None:
        """Look at once at what must always hold, and for as long as it takes at what soon must.

        Raises:
            Broken: says how what is differs from what must be.
        """
        self._at_once()
        deadline = time.monotonic() + SECONDS
        looked = time.monotonic()
        while wrong := self._not_yet():
            if time.monotonic() > deadline:
                raise Broken("\n".join(wrong))
            if time.monotonic() > looked + LOOK_SECONDS:
                look()  # what was refused once is tried again then, or in half a minute
                looked = time.monotonic()
            time.sleep(0.1)
        self._at_once()

    def machine(self) -> dict[str, object]:
        """Return what a refusal must leave as it was."""
        names = sorted(self.others.found)
        if self.others.spinning:  # which takes a page and gives it back
            names = [name for name in names if not name.endswith(("/free_hugepages", "/resv_hugepages"))]
        return {"online": sorted(online())} | {name: int(Path(name).read_text()) for name in names}

    def _not_yet(self) -> list[str]:
        """Return what is not in order. What goes away while it is read is not in order either."""
        try:
            return list(self._soon())
        except OSError as error:
            return [f"cannot look: {error}"]

    def _at_once(self) -> None:
        if self._witness.seen or not self._witness.is_alive():
            raise Broken("\n".join(dict.fromkeys(self._witness.seen)) or "the witness has ended")
        wrong = [text for _, text in moment(self.others, self.tenants)]
        wrong += [f"lease {tenant}: {told}" for tenant in self.tenants.values() if (told := tenant.told()) != WHOLE]
        lent = self._lent()
        for tenant in self.tenants.values():
            if tenant.online and os.sched_getaffinity(tenant.pid) != tenant.cpus:
                wrong.append(f"the holder of {tenant} may run on {sorted(os.sched_getaffinity(tenant.pid))}")
        wrong += [f"{name} of the host may run on CPUs {sorted(its)}" for name, its in host_tasks() if its & lent]
        if wrong:
            raise Broken("\n".join(wrong))

    def _lent(self) -> frozenset[int]:
        return frozenset[int]().union(*(tenant.cpus for tenant in self.tenants.values() if tenant.online))

    def _soon(self) -> Iterator[str]:
        """Tell what is not in order, or not yet."""
        yield from self._scopes()
        yield from self._files()
        if self.running:
            view = service.pool()
            yield from self._told(view)
            asked = {
                (node["node"], PAGE_KIB[pages["hugepage_size"]]): pages["asked"]
                for node in view["nodes"]
                for pages in node["hugepages"]
            }
            cpus = frozenset(view["cpus"])
            always = view["config"]["offline"] == "always"
        else:
            record = service.ledger()
            asked = {}
            for bank in record["banks"]:
                key = (bank["node"], bank["page_kib"])
                asked[key] = asked.get(key, 0) + bank["pages"]
            if not self.tenants:
                yield from (f"left by the stopped service: {path}" for path in RUN.iterdir() if not _stays(path))
            cpus, always = frozenset(), False
        yield from self._cpus(cpus, always)
        yield from self._pages(asked)

    def _files(self) -> Iterator[str]:
        """Compare what is allocated to the files of leases with what each has; one that ended has none."""
        for path in BANKS.glob("bank*/lease-*"):
            tenant = self.tenants.get(path.name.removeprefix("lease-"))
            wanted, has = tenant.mib << 20 if tenant else -1, path.stat().st_blocks * 512
            if has != wanted:
                yield f"{path} has {has} bytes, wanted {wanted if tenant else 'no such file'}"

    def _told(self, view: dict) -> Iterator[str]:
        """Compare what the daemon says with the file in force, and with the tenants that live."""
        assert self.force, "a service that runs has a file in force"
        if view["config"] != self.force.config():
            yield f"in force is {view['config']}, wanted {self.force.config()}"
        wanted = "degraded" if self.refused else "ready"
        if (view["state"] != wanted or view["drift"]) and not self.others.spinning:
            yield f"the state is {view['state']}, wanted {wanted}: {view['summary']}"
        if self.whole:
            yield from self._size(view, self.force.config())
        told = {lease["id"]: lease["cpus"] for lease in service.call("ListLeases")["parameters"]["leases"]}
        if told != (lives := {tenant.id: sorted(tenant.cpus) for tenant in self.tenants.values()}):
            yield f"leases are {told}, wanted {lives}"
        if {lease["id"] for lease in service.ledger()["leases"]} != set(lives):
            yield f"the ledger has the leases {json.dumps(service.ledger()['leases'])}, wanted {lives}"

    def _size(self, view: dict, config: dict) -> Iterator[str]:
        """Compare what the pool has with what the file asks."""
        if len(view["cpus"]) != config["cpu_count"] and view["cpus"] != config["cpu_pool"]:
            yield f"the pool has CPUs {view['cpus']}, wanted {config['cpu_count'] or config['cpu_pool']}"
        kib = PAGE_KIB[config["hugepage_size"]]
        if view["memory_mib"] != (wanted := -(-config["memory_mib"] * 1024 // kib) * kib // 1024):
            yield f"the pool has {view['memory_mib']} MiB, wanted {wanted}"

    def _scopes(self) -> Iterator[str]:
        """Compare the scopes of enclaves and the partition with the tenants that live."""
        there = {path.name for path in CGROUP.glob("*.slice/evm-*.scope")}
        if there != (wanted := {f"evm-{id}.scope" for id in self.tenants}):
            yield f"scopes are {sorted(there)}, wanted {sorted(wanted)}"
        partition = SLICE / "cpuset.cpus.partition"
        state = partition.read_text().strip() if partition.exists() else "member"
        if state != ("root" if self._lent() else "member"):
            yield f"the partition is {state!r}, lent online are CPUs {sorted(self._lent())}"
        if (lent := self._lent()) and parsed((SLICE / "cpuset.cpus.effective").read_text()) != lent:
            yield f"the slice has CPUs {(SLICE / 'cpuset.cpus.effective').read_text()}, wanted {sorted(lent)}"

    def _cpus(self, cpus: frozenset[int], always: bool) -> Iterator[str]:
        """Tell which CPUs are not where they belong: a pool's, a lease's, of others who took them, or the host's."""
        leased = frozenset[int]().union(*(tenant.cpus for tenant in self.tenants.values()))
        if self.running and not leased <= cpus:
            yield f"leased are CPUs {sorted(leased)}, the pool has {sorted(cpus)}"
        taken = (cpus | leased if always else leased) - self._lent()
        wanted = self.others.cpus - self.others.away - taken
        if wanted != online():
            yield f"online are CPUs {sorted(online())}, wanted {sorted(wanted)}"
        hosts = self.others.cpus - self.others.away - taken - self._lent()
        if hosts != (got := parsed((CGROUP / "cpuset.cpus.effective").read_text())):
            yield f"the host has CPUs {sorted(got)}, wanted {sorted(hosts)}"
        for name, may in host_tasks():
            if not hosts <= may:
                yield f"{name} of the host may run on CPUs {sorted(may)} only, the host has {sorted(hosts)}"

    def _pages(self, asked: dict[tuple[int, int], int]) -> Iterator[str]:
        """Compare all counters with what others have and what the pool must have, and the pool's with its banks."""
        wanted, got = self.others.expected(asked), self.machine()
        yield from (
            f"{name} is {got[name]}, wanted {wanted[name]}"
            for name in wanted
            if got.get(name) not in (None, wanted[name])
        )
        if self.others.spinning:
            return
        held = sum(path.stat().st_blocks * 512 for path in BANKS.glob("bank*/*"))
        if held != (need := sum(pages * kib * 1024 for (_, kib), pages in asked.items())):
            yield f"the banks have {held} bytes, wanted {need}"


def _stays(path: Path) -> bool:
    return path.name in ("lock", "evm")
