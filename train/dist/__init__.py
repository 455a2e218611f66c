"""Ranks: which process this is, its device and threads, and the collectives that a step needs."""
