"""The launcher, against an allocator of the tests and a real QEMU."""
