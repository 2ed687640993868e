"""The state machine: what allocators, holders, other programs and bad luck do to a host, in any order."""

import errno
import logging
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.machines import BOOTABLE
from tests.soak.stage import Trouble
from tests.soak.world import World

STEPS = 30
"""Of one walk."""

MACHINES = (
    *("guest_2x2x2", "one_node", "dual_socket_ht", "four_nodes", "no_smt", "older_nodes"),
    *("node_holes", "one_core_left", "mixed_smt", "no_numa"),
)
CODES = (errno.EIO, errno.EBUSY, errno.EPERM, errno.ENOSPC, errno.EMFILE, errno.EROFS)
REFUSED_FILES = ("", "memory_mib: much\n", "memory_mib: 64\n", "memory_mib: 64\ncpu_cuont: 2\n", "{")
SIZES = (2048, 2048, 2048, 1024 * 1024)

numbers = st.integers(0, 7)
cpus = st.integers(1, 15)
pages = st.integers(1, 9)
keys = st.tuples(numbers, st.sampled_from(SIZES))
effects = st.integers(0, 30)
trouble = st.one_of(
    st.builds(Trouble, st.sampled_from(["die_before", "die_after", "full"]), effects),
    st.builds(Trouble, st.just("fail"), effects, code=st.sampled_from(CODES)),
    st.builds(Trouble, st.sampled_from(["steal", "raise", "kill"]), effects, key=keys, count=st.integers(1, 40)),
)
troubles: st.SearchStrategy[list[Trouble]] = st.one_of(st.just([]), st.lists(trouble, min_size=1, max_size=2))

configs = st.builds(
    lambda keys, shape: keys | shape,
    st.fixed_dictionaries(
        {"memory_mib": st.sampled_from([64, 16, 31, 48, 80, 96, 128, 2048, 6000])},
        optional={
            "max_enclaves": st.sampled_from([1, 3, 4, 8]),
            "host_memory_mib": st.sampled_from([64, 512, 4000]),
            "hugepage_size": st.sampled_from(["2M", "2M", "1G"]),
            "offline": st.sampled_from(["always", "leased"]),
            "cpu_driver": st.sampled_from(["sysfs", "sysfs", "nitro_enclaves"]),
            "hold_memory": st.booleans(),
        },
    ),
    st.one_of(
        st.fixed_dictionaries({"cpu_count": st.sampled_from([2, 2, 4, 4, 6, 8, 3, 1])}),
        st.fixed_dictionaries({"cpu_pool": st.sampled_from(["2-3", "4-7", "6-7", "2-3,6-7", "7,15", "1-3", "0-1"])}),
    ),
)
requests = st.fixed_dictionaries(
    {
        "cpu_count": st.sampled_from([2, 2, 2, 1, 4]),
        "memory_mib": st.sampled_from([16, 2, 31, 48, 64, 1024]),
        "online": st.booleans(),
    }
)
mib = st.integers(-500, 4000)
deeds = st.one_of(
    st.tuples(st.sampled_from(["use", "free", "raise_number", "lower_number", "use", "free"]), keys, pages),
    st.tuples(st.just("overwrite_number"), keys, st.integers(0, 40)),
    st.tuples(st.just("overcommit"), numbers),
    st.tuples(st.just("return_stolen")),
    st.tuples(st.just("take_memory"), numbers, mib),
    st.tuples(st.just("scatter"), numbers, st.integers(0, 4096), st.integers(0, 4096)),
)
acts = st.one_of(
    st.tuples(st.sampled_from(["bring_up", "bring_up", "take_down", "unplug", "keep_busy"]), cpus),
    st.tuples(st.sampled_from(["plug", "rest", "disclaim"])),
    st.tuples(st.just("claim"), st.sets(cpus, min_size=1, max_size=3)),
    st.tuples(st.sampled_from(["unmount", "run_on_driver"]), numbers),
)


class Walk(RuleBasedStateMachine):
    """One host, from its boot to the end of everything on it."""

    world: World
    taken: ClassVar[int] = 0
    """The steps of all walks so far."""

    @initialize(machine=st.sampled_from(MACHINES), crowded=st.booleans(), config=configs)
    def boot(self, machine: str, crowded: bool, config: dict[str, Any]) -> None:
        logging.disable(logging.CRITICAL)
        memory = Path("/dev/shm")
        self.directory = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
        self.world = World(BOOTABLE[machine], self.directory, crowded)
        self.world.configure(config)
        self.world.start()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                if not sys.exc_info()[0]:  # else it has failed already
                    self.world.end()
            finally:
                logging.disable(logging.NOTSET)
                shutil.rmtree(self.directory)

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "world"):
            Walk.taken += 1
            self.world.check()

    @rule(config=configs)
    def edit(self, config: dict[str, Any]) -> None:
        self.world.configure(config)

    @rule(text=st.sampled_from(REFUSED_FILES))
    def spoil(self, text: str) -> None:
        self.world.host.config_path.write_text(text)

    @rule(troubles=troubles)
    def start(self, troubles: list[Trouble]) -> None:
        self.world.plan(troubles)
        self.world.start()

    @rule(config=configs, troubles=troubles)
    def change(self, config: dict[str, Any], troubles: list[Trouble]) -> None:
        self.world.configure(config)
        self.world.plan(troubles)
        self.world.start()

    @rule(troubles=troubles)
    def stop(self, troubles: list[Trouble]) -> None:
        self.world.plan(troubles)
        self.world.leave()

    @precondition(lambda self: self.world.waited_for())
    @rule(troubles=troubles)
    def scope_ended(self, troubles: list[Trouble]) -> None:
        self.world.plan(troubles)
        self.world.scope_ended()

    @precondition(lambda self: self.world.pool.banks)
    @rule(troubles=troubles, asked=requests)
    def acquire(self, troubles: list[Trouble], asked: dict[str, Any]) -> None:
        self.world.acquire(troubles, **asked)

    @precondition(lambda self: self.world.pool.banks)
    @rule(asked=requests)
    def acquire_calmly(self, asked: dict[str, Any]) -> None:
        self.world.acquire([], **asked)

    @precondition(lambda self: self.world.pool.leases)
    @rule(troubles=troubles, number=numbers)
    def release(self, troubles: list[Trouble], number: int) -> None:
        self.world.plan(troubles)
        self.world.release(number)

    @precondition(lambda self: self.world.pool.leases)
    @rule(number=numbers, forked=st.booleans())
    def kill(self, number: int, forked: bool) -> None:
        self.world.kill(number, forked)

    @precondition(lambda self: self.world.pool.leases)
    @rule(number=numbers, length=numbers)
    def give_up_pages(self, number: int, length: int) -> None:
        self.world.give_up_pages(number, length)

    @rule(deed=deeds)
    def others_move_memory(self, deed: tuple[Any, ...]) -> None:
        self.world.do(*deed)

    @rule(act=acts)
    def others_move_cpus(self, act: tuple[Any, ...]) -> None:
        self.world.do(*act)
