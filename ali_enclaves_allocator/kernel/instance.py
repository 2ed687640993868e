"""The door to what the firmware and cloud-init tell of this machine, without network. It never fails."""

import json
from pathlib import Path
from typing import Any

from ali_enclaves_allocator.kernel.processes import printable
from ali_enclaves_allocator.model.instance import Instance

DMI = "sys/class/dmi/id"
CLOUD_INIT = "run/cloud-init/instance-data.json"
"""What cloud-init lets anybody read of its data source (cloud-init's "Instance metadata")."""

MAX_BYTES = 4 << 20
LONGEST = 100
"""Characters of a value that are told; firmware may say anything."""


def read_instance(root: Path = Path("/")) -> Instance:
    """Read what there is; what is missing, unreadable or no text is empty."""
    vendor, product, family = (
        _told(_read(root / DMI / name)) for name in ("sys_vendor", "product_name", "product_family")
    )
    return Instance(vendor, product, family, _instance_type(_read(root / CLOUD_INIT)))


def _instance_type(text: str) -> str:
    """Find the type in cloud-init's data: of AliYun below `instance/`, of EC2 and others beside it."""
    try:
        data: Any = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    for key in ("ds", "meta_data"):
        data = data.get(key) if isinstance(data, dict) else None
    below = data.get("instance") if isinstance(data, dict) else None
    for place in (below, data):
        found = place.get("instance-type") if isinstance(place, dict) else None
        if isinstance(found, str):
            return _told(found)
    return ""


def _told(text: str) -> str:
    """Return one line of text as it may be shown."""
    return printable(text.strip())[:LONGEST]


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES).decode(errors="replace")
    except OSError:
        return ""
