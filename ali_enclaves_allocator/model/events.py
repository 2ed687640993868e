"""The events that reach the journal with a MESSAGE_ID of their own (systemd.journal-fields(7))."""

from typing import TypedDict
from uuid import UUID


class Extra(TypedDict):
    """The `extra` of a log record."""

    MESSAGE_ID: UUID


def _event(number: str) -> Extra:
    return {"MESSAGE_ID": UUID(number)}


POOL_READY = _event("402d895f1be146f7b3be9d207f70978f")
"""The pool stands as the file asks."""

POOL_DEGRADED = _event("adfd5ebe259f4f1f8b1b4c09da3a1e80")
"""The service runs, but the pool is not what the file asks, or drifted."""

POOL_GIVEN_BACK = _event("3a8e4537efc340c0bc9ba8cc719d9650")
"""The pool was given back to the host."""

POOL_KEPT = _event("327fdd0b71a14755bf8b4635dcba9075")
"""The service stops and the pool stays for its successor."""

RECOVERED = _event("ff5ab80f6f2841fd861f46518afeafd9")
"""An interrupted change was found at start, and undone or completed."""

REFUSED = _event("7f1acfa93e8b4ddcbbb3e5300809fa8e")
"""A configuration file or a request was refused; nothing was changed."""

TASK_DISPLACED = _event("881ad9cebdd5458088a3e53600914cbc")
"""A task that may run on pool CPUs only will be moved by the kernel, and not moved back."""

MEMORY_ROUNDED = _event("203c0e039efc4f8db01dcdcc1e14f584")
"""The memory asked for is not a whole number of hugepages and was rounded up."""

NO_MEMORY = _event("6d0c4a8b2f3e4f5c9a1d7b8e5c2f9a36")
"""A node of the pool gives cores and no memory, so no enclave can run there."""

RECORDS_DROPPED = _event("f2555bdbab76435587107fdafff79bcd")
"""The journal did not take some records; this one says how many."""

CPUSET_CUT = _event("0c6b7b52d8f14f0b9a4e6f1f5f5b3c1d")
"""A cpuset of cgroup v1 did not get back CPUs that it had before they were in the pool."""

LEASE_GRANTED = _event("b328bcdb315946958b7bc16a6ca5e1a7")
"""A part of the pool was lent."""

LEASE_ENDED = _event("81edbd09e01e45d49587ef499bc9eaed")
"""A lease ended, and its part is back in the pool."""
