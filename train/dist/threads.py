"""Sets the compute threads of a rank before torch is imported, so that ranks and readers of a host share its cores.

OpenMP by default takes all cores for every process. Two ranks on two cores, or one beside another busy process, then
wait for each other at every barrier: many times slower than with one thread (bench/threads.py measures it).
Standard library only.
"""

import os
from collections.abc import MutableMapping

from data_prep.cores import usable_cores
from model.errors import UserError
from train.dist.launch_env import read_rank_env

READERS = 2  # cores left to the threads that read and decode (data.reader_threads), where there are more than they need


def set_threads(env: MutableMapping[str, str] = os.environ) -> None:
    """Sets OMP_NUM_THREADS unless it is set."""
    if env.get("OMP_NUM_THREADS"):
        return
    try:
        ranks = read_rank_env(env).local_size
    except UserError:  # reported later, when the rank is needed
        ranks = 1
    env["OMP_NUM_THREADS"] = str(threads_of(usable_cores(), ranks))


def threads_of(cores: int, ranks: int) -> int:
    """Compute threads of a rank on a host with so many cores for so many ranks."""
    return max(1, cores // ranks - READERS)
