"""Small requests, and the pool that a plan makes."""

from typing import Any

from ali_enclaves_allocator.model.config import Config
from ali_enclaves_allocator.model.plan import Plan
from ali_enclaves_allocator.model.pool import Bank, Pool, Share


def config(**keys: Any) -> Config:
    """Return a configuration of 64 MiB, unless the keys say otherwise."""
    return Config.model_validate({"memory_mib": 64, "host_memory_mib": 64} | keys)


def pool_of(plan: Plan, asked: Config | None = None) -> Pool:
    """Return the pool that stands when this plan is carried out."""
    banks = tuple(Bank(f"bank{node}", node, plan.page_kib, pages) for node, pages in plan.pages.items() if pages)
    shares = tuple(Share(bank.node, bank.page_kib, bank.pages) for bank in banks)
    return Pool(plan.cores, banks, shares, asked)
