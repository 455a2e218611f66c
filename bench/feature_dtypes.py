"""Goal 7, what bytes cost: the demo's training from bfloat16 and from int8 features, side by side, to their WER.

`python -m bench.feature_dtypes`. Same speech, same recipe, same seed, one process each at the same time; only the cache
differs. int8 keeps half the bytes; performance.md wants its WER seen before anybody uses it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.corpora import PLACE, ROOT
from bench.goal import Goal
from data_prep.shards.index import ShardIndex
from data_prep.shards.opening import read_index

DTYPES = ("bfloat16", "int8")
STEPS = 500  # of recipes/demo.yaml
UTTERANCES = {"train": 3000, "dev": 64, "test": 200}  # of the demo
ENCODER = ROOT / "model" / "stand_in" / "encoder"
POINTS = 1.0  # of WER that int8 may be worse by


def run(scale: float = 1.0) -> list[Goal]:
    """WER of int8 above that of bfloat16 on held-out sentences in held-out voices, and the bytes of both."""
    place = PLACE / f"dtypes-{scale:g}"
    for split, number in UTTERANCES.items():
        make_features(place, split, max(8, round(number * scale)), DTYPES if split == "train" else ())
    shutil.rmtree(place / "runs", ignore_errors=True)  # a finished run would not be trained again
    steps = max(2, round(STEPS * scale))
    runs = [_train(place, dtype, steps) for dtype in DTYPES]
    if any([process.wait() for process in runs]):
        raise RuntimeError(f"a training failed; see {place}/*.log")
    wer = {dtype: _score(place, dtype) for dtype in DTYPES}
    rates = {dtype: _bytes_a_second(read_index(place / "features" / dtype)) for dtype in DTYPES}
    found = ", ".join(f"{dtype} {100 * wer[dtype]:.1f} % at {rates[dtype] / 1000:.1f} kB/s" for dtype in DTYPES)
    note = f"{found}; {steps} steps, {max(8, round(UTTERANCES['test'] * scale))} utterances of the test voices"
    more = 100 * (wer["int8"] - wer["bfloat16"])
    return [Goal("7", "int8, WER above bfloat16's", more, POINTS, "lower", "points", "one run each", note)]


def make_features(place: Path, split: str, number: int, dtypes: Sequence[str]) -> None:
    """Shards of so many utterances of the demo's speech in `place`/shards/SPLIT, and their features of each dtype."""
    corpus, shards = place / "corpus", place / "shards" / split
    _command("prep", "synth", corpus, "--split", split, "--utterances", number)
    _command("prep", "build", corpus / f"{split}.jsonl", shards)
    for dtype in dtypes:
        encode = ("prep", "features", shards, place / "features" / dtype, "--encoder", ENCODER)
        _command(*encode, "--feature-dtype", dtype, "--yes")


def _train(place: Path, dtype: str, steps: int) -> subprocess.Popen[bytes]:
    own = [f"data.train={place / 'features' / dtype}", f"data.dev={place / 'shards' / 'dev'}"]
    own += [f"run.dir={place / 'runs' / dtype}", f"optim.max_steps={steps}", "eval.wer=false", "save.best=none"]
    command = [sys.executable, "-m", "train", str(ROOT / "recipes" / "demo.yaml"), *own]
    with open(place / f"{dtype}.log", "wb") as log:
        return subprocess.Popen(command, cwd=ROOT, env=_environment(), stdout=log, stderr=log)


def _score(place: Path, dtype: str) -> float:
    out = place / "scores" / dtype
    _command("score", place / "runs" / dtype, place / "shards" / "test", "--out", out)
    return json.loads((out / "score.json").read_text())["all"]["wer"]


def _bytes_a_second(index: ShardIndex) -> float:
    return float(index.length.sum()) / index.seconds


def _command(*arguments: object) -> None:
    command = [sys.executable, "-m", "launch.command", *map(str, arguments)]
    subprocess.run(command, cwd=ROOT, env=_environment(), stdout=subprocess.DEVNULL, check=True)


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1"}


if __name__ == "__main__":
    for goal in run():
        print(goal.line())
