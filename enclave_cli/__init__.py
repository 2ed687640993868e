"""The launcher: takes a lease from the allocator and boots an enclave VM on it."""

__version__ = "0.1.0"
