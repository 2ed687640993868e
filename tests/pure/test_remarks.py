"""What is told of a pool beside that it fits."""

import pytest

from ali_enclaves_allocator.model.config import Config
from ali_enclaves_allocator.model.pool import Bank, Holder, Lease, Pool, Share
from ali_enclaves_allocator.model.remarks import remarks
from ali_enclaves_allocator.model.topology import Core

CORES = (Core((2, 3), 0), Core((4, 5), 1), Core((6, 7), 1))
BANK = Bank("bank0", 0, 2048, 32)
LEASE = Lease(
    "0123456789abcdef", "web", CORES[:1], "bank0", 0, 2048, 32, True, Holder(7, 1, 0, 0, "qemu"), 0.0, {}, True
)
FAR = "CPUs 4-7 of node 1 can run no enclave: no memory of that node is in the pool"


@pytest.mark.parametrize(
    ("pool", "keys", "told"),
    [
        (Pool(CORES[:1], (BANK,), (Share(0, 2048, 32),)), {}, []),
        (
            Pool(CORES[:1], (BANK,), (Share(0, 2048, 32),)),
            {"memory_mib": 63},
            ["memory_mib: 63 MiB rounded up to 64 MiB, whole 2M pages"],
        ),
        (Pool(CORES, (BANK,), (Share(0, 2048, 32),)), {}, [FAR]),
        (Pool(CORES, (BANK,), (Share(0, 2048, 32),), leases=(LEASE,)), {}, [f"{FAR} (leases have it elsewhere)"]),
        (
            Pool(CORES[:1], (BANK,), (Share(0, 2048, 32),)),
            {"max_enclaves": 50},
            ["max_enclaves: 50: the pool has 1 core, and each enclave takes one at least"],
        ),
        (
            Pool(CORES[:1], (BANK,), (Share(0, 2048, 32),), leases=(LEASE, LEASE)),
            {},
            ["max_enclaves: 1: the 2 enclaves that run go on, and no other starts"],
        ),
    ],
)
def test_remarks(pool: Pool, keys: dict[str, int], told: list[str]) -> None:
    config = Config(**{"memory_mib": 64, "cpu_count": 2} | keys)
    assert [remark.text for remark in remarks(pool, config)] == told
