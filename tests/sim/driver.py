"""The driver `nitro_enclaves` of the simulated kernel, as far as its parameter `ne_cpus` goes."""

import errno
from typing import TYPE_CHECKING

from ali_enclaves_allocator.model import cpus

if TYPE_CHECKING:
    from tests.sim.kernel import Simulation


class SimDriver:
    """It gives up what it has before it looks at what it is asked for, as the real one does."""

    def __init__(self, simulation: "Simulation") -> None:
        self._simulation = simulation
        self.loaded = False
        self.cpus: frozenset[int] = frozenset()
        self.enclave_runs = False

    def set(self, text: str) -> int:
        """Write `ne_cpus`. Return the error number, or 0."""
        if self.enclave_runs:
            return errno.EPERM
        for cpu in sorted(self.cpus):
            self._simulation.set_online(cpu, True)
        self.cpus = frozenset()
        wanted = frozenset(cpus.parse(text.strip())) if text.strip() else frozenset()
        if not wanted or not wanted <= self._simulation.online or not self._whole_cores_of_one_node(wanted):
            return errno.EINVAL
        for cpu in sorted(wanted):
            try:
                self._simulation.set_online(cpu, False)
            except OSError as error:
                self._simulation.online |= wanted
                return error.errno or errno.EIO
        self.cpus = wanted
        return 0

    def _whole_cores_of_one_node(self, wanted: frozenset[int]) -> bool:
        cores = {self._simulation.core_of[cpu] for cpu in wanted}
        every = {cpu for core in cores for cpu in core.cpus}
        return every == wanted and len({core.node for core in cores}) == 1 and 0 not in every
