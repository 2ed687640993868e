"""The steps of a walk: what operators, enclaves, other programs and bad luck do to the machine and to the service."""

import random
import time
from collections.abc import Callable
from contextlib import nullcontext

import walk_service as service
from walk_oracle import Broken
from walk_others import Thief, look
from walk_stage import Stage
from walk_tenants import Tenant

MOST_TENANTS = 4
MOST_THIEVES = 3
MOST_AWAY = 2
LIFE_SECONDS = 3.0
"""How long a change lives before the service is killed in it, at most; some are over by then."""

Step = Callable[["Steps", random.Random], str]

STEPS: dict[Step, float] = {}
"""Every step, and how often it is chosen beside the others."""


def often(weight: float) -> Callable[[Step], Step]:
    """Make a method a step of this weight. It returns what it did, or nothing where there was nothing to do."""

    def weigh(step: Step) -> Step:
        STEPS[step] = weight
        return step

    return weigh


def _job(verb: str) -> "nullcontext[None]":
    """Let systemd do something with the service, and do not wait."""
    service.systemctl(verb, "--no-block", service.UNIT)
    return nullcontext()


class Steps(Stage):
    """All that can be done, and what must come of it at once; the rest is the oracle's."""

    @often(6)
    def reload(self, dice: random.Random) -> str:
        """Edit the file and reload."""
        if not self.oracle.running:
            return ""
        self.edit(dice, 0.9)
        before = self.oracle.machine()
        status = service.systemctl("reload", service.UNIT)
        self.brought(before)
        if bool(status) != self.oracle.refused and not self.others.spinning:
            raise Broken(f"reload ended with {status}, the file was {'refused' * self.oracle.refused or 'accepted'}")
        return f"reload: {self.outcome()}"

    @often(5)
    def restart(self, dice: random.Random) -> str:
        """Edit the file, or not, and restart."""
        if not self.oracle.running:
            return ""
        self.edit(dice, 0.6)
        before = self.oracle.machine()
        service.systemctl("restart", service.UNIT)
        self.brought(before)
        return f"restart: {self.outcome()}"

    @often(12)
    def start(self, dice: random.Random) -> str:
        """Start the stopped service."""
        if self.oracle.running:
            return ""
        self.edit(dice, 0.5)
        before = self.oracle.machine()
        service.systemctl("start", service.UNIT)
        self.brought(before)
        return f"start: {self.outcome()}"

    @often(3)
    def stop(self, _: random.Random) -> str:
        """Stop the service."""
        if not self.oracle.running:
            return ""
        if service.systemctl("stop", service.UNIT):
            raise Broken("stop failed")
        self.oracle.running = self.oracle.whole = False
        return f"stop, while {len(self.tenants)} leases live"

    @often(4)
    def kill_service(self, _: random.Random) -> str:
        """Kill the service while it rests; nothing changes but its pid."""
        if not self.oracle.running:
            return ""
        before = self.oracle.machine()
        self.strike()
        self.brought(before)
        return f"SIGKILL of the service: {self.outcome()}"

    @often(8)
    def kill_in_change(self, dice: random.Random) -> str:
        """Kill the service at some moment of a reload, a restart or a stop; a start mends what that left."""
        if not self.oracle.running:
            return ""
        self.edit(dice, 0.9)
        before = self.oracle.machine()
        verb, pause = dice.choice(("reload", "restart", "stop")), dice.random() * LIFE_SECONDS
        with service.send("Reload") if verb == "reload" else _job(verb):
            time.sleep(pause)
            self.strike()
        if verb == "stop":
            self.oracle.whole = False
            before = {}
            service.systemctl("start", service.UNIT)
        self.brought(before)
        return f"SIGKILL of the service {pause:.2f} s after a {verb}: {self.outcome()}"

    @often(3)
    def kill_in_acquire(self, dice: random.Random) -> str:
        """Kill the service while it lends."""
        if not self.oracle.running or len(self.tenants) == MOST_TENANTS:
            return ""
        request, pause = self.request(dice), dice.random() * LIFE_SECONDS / 2
        tenant = Tenant(request)
        time.sleep(pause)
        self.strike()
        if not (refused := tenant.answered()):
            self.tenants[tenant.id] = tenant
        self.brought({})
        return f"SIGKILL of the service {pause:.2f} s after {request}: {refused or tenant}"

    @often(3)
    def kill_in_give_back(self, dice: random.Random) -> str:
        """Kill a holder, and the service while it takes the lease back."""
        if not self.oracle.running or not self.tenants:
            return ""
        tenant, pause = self.any_tenant(dice), dice.random() * LIFE_SECONDS / 3
        tenant.kill()
        time.sleep(pause)
        self.strike()
        self.brought({})
        return f"SIGKILL of a holder, and of the service {pause:.2f} s later: {tenant}"

    @often(22)
    def acquire(self, dice: random.Random) -> str:
        """Take a lease."""
        if not self.oracle.running or len(self.tenants) == MOST_TENANTS:
            return ""
        request = self.request(dice)
        view, before = service.pool(), self.oracle.machine()
        tenant = Tenant(request)
        if refused := tenant.answered():
            self.require_reason(refused, request, view)
            self.require_machine(before)
            return f"refused {request}: {refused.split()[0]}"
        self.tenants[tenant.id] = tenant
        if len(tenant.cpus) != request["cpu_count"] or tenant.mib < request["memory_mib"]:
            raise Broken(f"asked for {request}, got {tenant}")
        return f"lease {tenant}"

    @often(4)
    def release(self, dice: random.Random) -> str:
        """Release a lease, which ends its holder."""
        if not self.oracle.running or not self.tenants:
            return ""
        tenant = self.any_tenant(dice)
        if "error" in (reply := service.call("Release", {"lease": tenant.id})):
            raise Broken(f"release of {tenant}: {reply}")
        if (status := tenant.wait()) not in (-15, -9):
            raise Broken(f"the holder of {tenant} ended with {status} by its release")
        return f"released {tenant}"

    @often(6)
    def end_holder(self, dice: random.Random) -> str:
        """Kill a holder, or let it end; the service may run or not."""
        if not self.tenants:
            return ""
        tenant, end = self.any_tenant(dice), dice.choice((Tenant.kill, Tenant.kill, Tenant.end))
        end(tenant)
        return f"holder: {end.__name__}: {tenant}"

    @often(3)
    def add_pages(self, dice: random.Random) -> str:
        """Raise a node's number of hugepages by hand, or lower it by idle ones."""
        node, more = dice.choice(self.others.nodes), dice.randint(-8, 8)
        more = max(more, -self.others.idle(node))
        if self.others.spinning or not more:
            return ""
        self.others.add(node, more)
        return f"{more:+} pages on node {node} by hand"

    @often(2)
    def cut_pages(self, dice: random.Random) -> str:
        """Write a number that is less than what the pool has; its pages become surplus until somebody mends it.

        Not while programs use pages: what is persistent may be theirs, so nobody can tell whose number was cut.
        """
        node = dice.choice(self.others.nodes)
        if not self.oracle.running or self.others.spinning or self.others.used(node):
            return ""
        if not (ours := self.asked(node)):
            return ""
        less = self.others.idle(node) + dice.randint(1, ours)
        self.others.write(node, -less)
        look()
        self.await_that(
            lambda: any("nr_hugepages" in entry["what"] for entry in service.pool()["drift"]), "the drift of pages"
        )
        if dice.random() < 0.5 or self.oracle.refused:
            self.others.write(node, less)
            return f"{-less} pages on node {node} by hand, and back"
        service.systemctl("restart", service.UNIT)
        self.brought({})
        self.others.pages[node] = self.others.used(node)
        return f"{-less} pages on node {node} by hand, and a restart: {self.outcome()}"

    @often(3)
    def hold_pages(self, dice: random.Random) -> str:
        """Let a thief take idle pages, for a while."""
        node = dice.choice(self.others.nodes)
        if self.others.spinning or (idle := self.others.idle(node)) < 1 or len(self.others.thieves) == MOST_THIEVES:
            return ""
        self.others.thieves.append(Thief(node, dice.randint(1, idle)))
        return f"a thief takes {self.others.thieves[-1]}"

    @often(1)
    def spin_pages(self, dice: random.Random) -> str:
        """Let a thief take a page of a node and give it back, over and over, while somebody has idle pages."""
        node = dice.choice(self.others.nodes)
        if self.others.spinning or sum(map(self.others.idle, self.others.nodes)) < 1:
            return ""
        self.others.thieves.append(Thief(node, 0))
        return f"a thief takes {self.others.thieves[-1]}"

    @often(4)
    def let_pages_go(self, dice: random.Random) -> str:
        """End a thief; what it spoilt mends itself, or a restart does."""
        if not self.others.thieves:
            return ""
        thief = self.others.thieves.pop(dice.randrange(len(self.others.thieves)))
        thief.end()
        if thief.pages or not self.oracle.running:
            return f"a thief lets go of {thief}"
        self.edit(dice, 0, self.oracle.force)
        service.systemctl("restart", service.UNIT)
        self.brought({})
        return f"a thief lets go of {thief}, and a restart: {self.outcome()}"

    @often(2)
    def steal(self, dice: random.Random) -> str:
        """Let a thief take all there is; it gets what is idle, and nothing of the pool."""
        node = dice.choice(self.others.nodes)
        if self.others.spinning:
            return ""
        if (stolen := self.others.steal(node)) != (idle := self.others.idle(node)):
            raise Broken(f"a thief got {stolen} pages of node {node}, idle are {idle} of others")
        return f"a thief takes all {stolen} idle pages of node {node}"

    @often(2)
    def take_cpu(self, dice: random.Random) -> str:
        """Take a CPU of the host's offline by hand."""
        pool = frozenset(service.pool()["cpus"] if self.oracle.running else ())
        taken = pool.union(*(tenant.cpus for tenant in self.tenants.values())) | self.others.away
        hosts = sorted(self.others.cpus - self.others.host_core - taken)
        if not hosts or len(self.others.away) == MOST_AWAY:
            return ""
        self.others.switch(cpu := dice.choice(hosts), False)
        return f"CPU {cpu} goes offline by hand"

    @often(6)
    def bring_cpu(self, dice: random.Random) -> str:
        """Bring such a CPU back."""
        if not self.others.away:
            return ""
        self.others.switch(cpu := dice.choice(sorted(self.others.away)), True)
        return f"CPU {cpu} comes back by hand"

    @often(2)
    def daemon_reload(self, _: random.Random) -> str:
        """Have systemd read all its units again."""
        service.systemctl("daemon-reload")
        return "daemon-reload"

    def begin(self) -> None:
        """Start the service with the first file."""
        self.file.write()
        service.systemctl("start", service.UNIT)
        self.brought({})

    def finish(self, dice: random.Random) -> None:
        """End everything: holders before or after the service, then what others did."""
        for end in dice.sample([lambda: service.systemctl("stop", service.UNIT), self._kill_all], 2):
            end()
        self.oracle.running = self.oracle.whole = False
        self.others.undo()

    def _kill_all(self) -> None:
        while self.tenants:
            self.tenants.popitem()[1].kill()
