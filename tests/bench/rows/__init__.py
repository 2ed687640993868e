"""The rows of the benchmark, in the order of the table."""

from tests.bench.row import Row
from tests.bench.rows import choice, describe, getpool, growth

ROWS = {
    "choice": Row(choice.measure),
    "growth": Row(growth.measure),
    "getpool": Row(getpool.measure),
    "describe": Row(describe.measure),
}
