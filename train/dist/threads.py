"""Threads of a rank: set before torch is imported, so that the ranks and readers of a host share its cores.

OpenMP by itself takes all cores for every process. Two ranks on two cores, or one beside another busy process, then
wait for each other at every barrier: many times slower than with one thread (bench/threads.py measures it).
Standard library only.
"""

import os
from collections.abc import MutableMapping

from data_prep.cores import usable_cores
from model.errors import UserError
from train.dist.launch_env import find_place

READERS = 2
"""Cores left to the threads that read and decode (data.reader_threads), where there are more than they need."""


def set_threads(env: MutableMapping[str, str] = os.environ) -> str:
    """Sets OMP_NUM_THREADS, unless it is set; a line that says how many threads this rank computes with, and why."""
    if given := env.get("OMP_NUM_THREADS"):
        return f"{given} threads (OMP_NUM_THREADS)"
    try:
        ranks = find_place(env).local_size
    except UserError:  # said later, by whoever needs to know the rank
        ranks = 1
    cores = usable_cores()
    threads = threads_of(cores, ranks)
    env["OMP_NUM_THREADS"] = str(threads)
    shared = f" for {ranks} ranks" if ranks > 1 else ""
    return f"{threads} thread{'s' * (threads > 1)} of {cores} core{'s' * (cores > 1)}{shared}"


def threads_of(cores: int, ranks: int) -> int:
    """Compute threads of a rank on a host with so many cores for so many ranks."""
    return max(1, cores // ranks - READERS)
