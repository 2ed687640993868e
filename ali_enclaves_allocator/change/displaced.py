"""What the kernel does not restore: tasks that ran only on CPUs that go offline are told of before."""

import logging

from ali_enclaves_allocator.kernel.doors import Kernel
from ali_enclaves_allocator.model import cpus
from ali_enclaves_allocator.model.events import TASK_DISPLACED

log = logging.getLogger(__name__)


def tell_displaced(offline: frozenset[int], unusable: frozenset[int], kernel: Kernel) -> None:
    """Log each task that may run on unusable CPUs only, of which some now go offline.

    What runs on none of those, as the enclaves on other cores, stays where it is.
    """
    for task, its in kernel.processes.confined_to(unusable).items():
        if its & offline:
            log.warning(
                "task %s may run on %s only, all in the pool: the kernel moves it to others, and not back later",
                task,
                cpus.named(its),
                extra=TASK_DISPLACED,
            )
