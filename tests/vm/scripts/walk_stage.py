"""The stage of a walk: what its steps have in common, and what must have become of the file after each change."""

import random
import time
from collections.abc import Callable

import walk_service as service
from walk_file import File, any_file
from walk_oracle import Broken, Oracle
from walk_others import NODE, Others, siblings
from walk_tenants import Tenant


class Stage:
    """The machine, the service and all who use it."""

    def __init__(self, others: Others, oracle: Oracle) -> None:
        self.others, self.oracle, self.tenants = others, oracle, oracle.tenants
        rest = len(others.cpus) - len(others.host_core)
        self.file = File({"cpu_count": rest, "memory_mib": 200, "max_enclaves": 4})
        self._struck = 0
        self._cores: dict[int, list[frozenset[int]]] = {}
        for cpu in sorted(others.cpus - others.host_core):
            [node] = [node for node in others.nodes if (NODE / f"node{node}/cpu{cpu}").exists()]
            cores = self._cores.setdefault(node, [])
            if siblings(cpu) not in cores:
                cores.append(siblings(cpu))

    def edit(self, dice: random.Random, chance: float, file: File | None = None) -> None:
        """Write a file: this one, or with some chance any, or the one that is there."""
        self.file = file or (any_file(dice, self._cores) if dice.random() < chance else self.file)
        self.file.write()

    def strike(self) -> None:
        """Kill the service, and whatever works for it in its unit."""
        self._struck = service.main_pid()
        service.systemctl("kill", "--signal", "KILL", service.UNIT)

    def brought(self, before: dict[str, object]) -> None:
        """Wait until the service has read its file, and find out whether it is in force; and whether that is right.

        A file that is not leaves the machine as it was `before`, where that is known.

        Raises:
            Broken: it is not.
        """
        oracle, struck, self._struck = self.oracle, self._struck, 0
        stood = (oracle.running and oracle.whole) or bool(self.tenants)
        oracle.running = service.settled(struck)
        if not oracle.running and stood:
            raise Broken(f"the service does not run, although a pool stood; its file: {self.file}")
        view = service.pool() if oracle.running else {"config": None, "reason": "it does not run", "drift": []}
        accepted = self.file.valid and view["config"] == self.file.config()
        accepted = accepted and (not view["reason"] or bool(view["drift"]))
        in_the_way = {*self.tenants, *self.others.away, *(["spinning"] if self.others.spinning else [])}
        if self.file.sure and not in_the_way and not accepted:
            raise Broken(f"the file {self.file} was refused: {view['reason']}")
        if not accepted or (oracle.whole and self.file is oracle.force and oracle.around <= in_the_way):
            self.require_machine(before)
        oracle.refused = not accepted
        if accepted:
            oracle.force, oracle.whole, oracle.around = self.file, True, in_the_way

    def outcome(self) -> str:
        """Say what became of the file."""
        if not self.oracle.running:
            return f"it does not run; its file: {self.file}"
        return f"{'refused' if self.oracle.refused else 'in force'}: {self.file}"

    def require_machine(self, before: dict[str, object]) -> None:
        """Check that nothing was changed; raises Broken."""
        now = self.oracle.machine()
        if changed := [
            f"{key} is {now[key]}, was {before[key]}" for key in now if now[key] != before.get(key, now[key])
        ]:
            raise Broken("\n".join(["a refusal, or a restart without a change, changed the machine:", *changed]))

    def request(self, dice: random.Random) -> dict:
        """Return what a tenant asks for."""
        count = len(self.others.host_core) * dice.choice((1, 1, 1, 2))
        return {"cpu_count": count, "memory_mib": dice.choice((2, 7, 16, 40)), "online": dice.random() < 0.5}

    def require_reason(self, refused: str, request: dict, view: dict) -> None:
        """Check that a lease was refused for something that is so; raises Broken."""
        error = refused.split(maxsplit=1)[0]
        free = [
            sum(len(core["cpus"]) for core in node["cores"] if core["use"] in ("pool", "lendable"))
            for node in view["nodes"]
        ]
        wrong = {
            "LeaseLimitReached": len(self.tenants) < view["config"]["max_enclaves"],
            "InsufficientCpus": max(free) >= request["cpu_count"],
            "InsufficientMemory": request["memory_mib"] <= 2 and not self.tenants,
        }.get(error, not self.others.spinning)
        if wrong:
            raise Broken(f"refused {request}: {refused}; free were {free} CPUs: {view['summary']}")

    def any_tenant(self, dice: random.Random) -> Tenant:
        """Return a tenant whose end begins; from now on nothing is promised of its lease."""
        return self.tenants.pop(dice.choice(sorted(self.tenants, key=lambda id: self.tenants[id].pid)))

    def asked(self, node: int) -> int:
        """Return how many 2M pages the pool has of a node."""
        [its] = [its for its in service.pool()["nodes"] if its["node"] == node]
        return sum(pages["asked"] for pages in its["hugepages"] if pages["hugepage_size"] == "2M")

    def await_that(self, happened: Callable[[], bool], what: str) -> None:
        """Wait for something; raises Broken."""
        deadline = time.monotonic() + service.SECONDS
        while not happened():
            if time.monotonic() > deadline:
                raise Broken(f"not in time: {what}")
            time.sleep(0.1)
