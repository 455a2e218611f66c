"""Which file measures which goals, and one of them run in a process of its own."""

import importlib
import os
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from bench.goal import Goal

FILES = {  # which goals each measures
    "step": ("1", "2", "3"),
    "plan": ("4", "5"),
    "audio_path": ("6",),
    "feature_path": ("7",),
    "build_path": ("8",),
    "engine_step": ("8",),
}
TAKE_LENGTHS = ("step", "plan")


def measure(file: str, scale: float, lengths: Path | None) -> list[Goal]:
    """All goals of one file."""
    warnings.filterwarnings("ignore")
    run = importlib.import_module(f"bench.{file}").run
    return run(scale, lengths) if file in TAKE_LENGTHS else run(scale)


def measure_alone(file: str, scale: float, lengths: Path | None) -> list[Goal]:
    """The same in a fresh process, so that no measurement finds what another has left in memory.

    One thread for each of its own, and for the workers of what it compares with: more would fight over the cores.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, file, scale, lengths).result()
