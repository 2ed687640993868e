"""allocator.yaml, from its text."""
