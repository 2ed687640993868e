"""What kind of machine this is, and what the vendor's documents say about enclaves on it. Pure: advice, no rule."""

import re
from dataclasses import dataclass

from ali_enclaves_allocator.model.cpus import counted

LEAST_CPUS = 4
"""The documented minimum of an instance that can have an enclave."""

SECURITY_ENHANCED = re.compile(r"ecs\.[a-z]+[0-9]+[a-z]*t\.")
"""Types of the families that the vendor's page on Enclave was written for: their names end in t, for trusted."""

VENDOR = "Alibaba Cloud"
"""How the firmware of an ECS instance names its vendor."""


@dataclass(frozen=True)
class Instance:
    """What the firmware (DMI) and cloud-init tell. Empty is what they do not."""

    vendor: str = ""
    product: str = ""
    family: str = ""
    type: str = ""
    """The instance type, such as ecs.g7t.xlarge."""

    def describe(self) -> str:
        """Say what it is: `Alibaba Cloud, Alibaba Cloud ECS, ecs.g7t.xlarge`."""
        told = dict.fromkeys(part for part in (self.vendor, self.product, self.family, self.type) if part)
        return ", ".join(told) or "the firmware does not tell"


def remarks(instance: Instance, cpu_count: int) -> tuple[str, ...]:
    """Return what a user should know of enclaves on this machine. None of it keeps the pool from being made."""
    said = []
    if cpu_count < LEAST_CPUS:
        said.append(f"the machine has {counted(cpu_count)}; the documented minimum for an enclave is {LEAST_CPUS}")
    if not instance.vendor.startswith(VENDOR):
        said.append(f"not an instance of {VENDOR}: enclaves run as virtual machines of this host's own")
    elif not instance.type:
        said.append("the instance type cannot be read without network: whether it offers enclaves is not checked")
    elif not SECURITY_ENHANCED.match(instance.type):
        said.append(
            f"{instance.type} is of no security-enhanced family (such as g7t), for which enclaves are documented; "
            "its page tells of others"
        )
    return tuple(said)
