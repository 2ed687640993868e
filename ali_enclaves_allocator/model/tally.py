"""What the service counts from its start on, for those who watch many machines."""

from dataclasses import dataclass, field

from ali_enclaves_allocator.model import errors, refusals
from ali_enclaves_allocator.model.errors import AllocatorError

ACQUIRE_REFUSALS: tuple[type[AllocatorError], ...] = (
    refusals.NotPermitted,
    refusals.InvalidRequest,
    refusals.PoolNotReady,
    refusals.LeasesDisabled,
    refusals.LeaseLimitReached,
    refusals.NotWholeCores,
    refusals.InsufficientCpus,
    refusals.InsufficientMemory,
    refusals.OnlineImpossible,
    refusals.HolderGone,
    errors.CpuRefused,
    errors.KernelRefused,
)
"""The errors that Acquire answers with."""


@dataclass
class Tally:
    """Counters that only grow. A refusal that never came counts 0, so that its first time is seen as a rise."""

    short_grants: int = 0
    refused_acquisitions: dict[str, int] = field(
        default_factory=lambda: {error.__name__: 0 for error in ACQUIRE_REFUSALS}
    )

    def refused(self, error: AllocatorError) -> None:
        """Count an Acquire that was refused."""
        name = type(error).__name__
        self.refused_acquisitions[name] = self.refused_acquisitions.get(name, 0) + 1
