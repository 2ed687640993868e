"""The sentence that tells how the pool stands."""

from ali_enclaves_allocator.model.config import Config
from ali_enclaves_allocator.model.pool import Pool, Share
from ali_enclaves_allocator.server.views import sentence
from tests.pure.test_remarks import BANK, CORES, LEASE


def test_a_pool_that_lends_no_more_tells_who_runs_still() -> None:
    config = Config(memory_mib=64, cpu_count=2, hold_memory=False)
    shares = (Share(0, 2048, 32),)
    assert sentence("ready", Pool(CORES[:1], (), shares, config), None) == (
        "pool ready: CPUs 2-3 (1 core) on node 0, 64 MiB in 32×2M; CPUs offline, memory not held: nothing is lent"
    )
    assert sentence("ready", Pool(CORES[:1], (BANK,), shares, config, leases=(LEASE,)), None) == (
        "pool ready: CPUs 2-3 (1 core) on node 0, 64 MiB in 32×2M; CPUs offline, memory not held: "
        "nothing more is lent; 1 lease: web (CPUs 2-3, 64 MiB)"
    )
