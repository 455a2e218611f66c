"""Ranks: which process this is (launch_env.py, where a launcher is added), its device and threads, and the collectives.
Begin with collectives.py. Imports nothing else of train."""
