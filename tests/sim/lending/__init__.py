"""Lending by the whole daemon over its real socket: the holders are real processes, the kernel is simulated."""
