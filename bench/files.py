"""Which file measures which goals, and one of them run in an interpreter of its own."""

import importlib
import json
import os
import subprocess
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

from bench.goal import Goal

FILES = {  # which goals each measures
    "step": ("1", "2", "3"),
    "plan": ("4", "5"),
    "audio_path": ("6",),
    "feature_path": ("7",),
    "feature_dtypes": ("7",),
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
    """The same in a fresh interpreter, so that no measurement finds what another has left in memory.

    One thread for each of its own, and for the workers of what it compares with: more would fight over the cores. Not a
    process of multiprocessing: in one of those a DataLoader's workers cost several times what they cost a user.
    """
    command = [sys.executable, "-m", "bench.files", file, str(scale), *([str(lengths)] if lengths else [])]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True, check=True
    )
    return [Goal(**goal) for goal in json.loads(done.stdout.splitlines()[-1])]


if __name__ == "__main__":
    name, factor, *rest = sys.argv[1:]
    print(json.dumps([asdict(goal) for goal in measure(name, float(factor), Path(rest[0]) if rest else None)]))
