"""What threads cost beside another busy process: a training with all cores, with one thread, and with its own choice.

`python -m bench.threads`. The demo's training from cached features, in a process of its own for each case, alone and
beside one process that keeps a core busy, one case after the other; steps a second from metrics.jsonl, without the
first report. The goal is on the slow-down of a training that chooses its threads itself (train/dist/launch_env.py).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from bench.corpora import PLACE, ROOT
from bench.feature_dtypes import make_features
from bench.goal import Goal
from bench.timing import median, spread
from data_prep.cores import usable_cores

STEPS, EVERY = 60, 10
UTTERANCES, REPEATS = 600, 3
SLOWDOWN = 2.5
CASES = {"all cores": str(usable_cores()), "one thread": "1", "its own choice": ""}


def run(scale: float = 1.0) -> list[Goal]:
    """How many times slower a training becomes beside one busy process, by how its threads were chosen."""
    place = PLACE / f"threads-{scale:g}"
    make_features(place, "train", max(64, round(UTTERANCES * scale)), ("float16",))
    speeds: dict[tuple[str, bool], list[float]] = {(case, busy): [] for case in CASES for busy in (False, True)}
    for _ in range(max(1, round(REPEATS * scale))):
        for case, busy in speeds:
            speeds[case, busy].append(_steps_a_second(place, CASES[case], busy, max(20, round(STEPS * scale))))
    slowdowns = [a / b for a, b in zip(speeds["its own choice", False], speeds["its own choice", True], strict=True)]
    note = "; ".join(
        f"{case}: {median(speeds[case, False]):.3g} steps/s alone, {median(speeds[case, True]):.3g} beside"
        for case in CASES
    )
    return [
        Goal("10", "slower beside a busy process", median(slowdowns), SLOWDOWN, "lower", "x", spread(slowdowns), note)
    ]


def _steps_a_second(place, threads: str, busy: bool, steps: int) -> float:
    folder = place / "run"
    shutil.rmtree(folder, ignore_errors=True)
    overrides = [f"data.train={place / 'features' / 'float16'}", "data.dev=[]", f"run.dir={folder}", "save.best=none"]
    overrides += [
        f"optim.max_steps={steps}",
        f"log.every_steps={EVERY}",
        "save.every_steps=1000",
        "watch.every_steps=null",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment |= {"DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1"} | ({"OMP_NUM_THREADS": threads} if threads else {})
    command = [sys.executable, "-m", "train", str(ROOT / "recipes" / "demo.yaml"), *overrides]
    with _one_core_busy() if busy else _quiet():
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return median([line["steps_per_second"] for line in lines if line["kind"] == "train"][1:])


@contextmanager
def _one_core_busy() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def _quiet() -> Iterator[None]:
    yield


if __name__ == "__main__":
    for goal in run():
        print(goal.line())
