"""Sets cores and hugepages of a cloud instance aside for enclave VMs."""

__version__ = "0.1.0"
