"""Lending and taking back, step by step, on the simulated kernel."""
