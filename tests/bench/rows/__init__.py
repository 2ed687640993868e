"""The rows of the benchmark, in the order of the table."""

from tests.bench.row import Row
from tests.bench.rows import (
    choice,
    describe,
    first_byte,
    fragmented,
    getpool,
    growth,
    idle,
    lease,
    memory,
    profile,
    restart,
    start,
    work,
)

ROWS = {
    **{name: Row(one.measure, in_guest=True) for name, one in start.STARTS.items()},
    "memory": Row(memory.measure, in_guest=True),
    "profile": Row(profile.measure, in_guest=True),
    "work": Row(work.measure, in_guest=True),
    "restart": Row(restart.measure, in_guest=True),
    "fragmented": Row(fragmented.measure, in_guest=True),
    "choice": Row(choice.measure),
    "growth": Row(growth.measure),
    "getpool": Row(getpool.measure),
    "lease": Row(lease.measure, in_guest=True),
    "first-byte": Row(first_byte.measure, in_guest=True),
    "idle": Row(idle.measure, in_guest=True),
    "describe": Row(describe.measure),
}
