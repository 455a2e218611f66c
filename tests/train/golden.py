"""Writes tests/train/golden_losses.json, which test_golden.py compares with, anew: `python -m tests.train.golden`.

To be run after a change that should move the numbers; commit the file with the reason. 30 steps of tiny models on one
rank in float32, with dropout, SpecAugment, two speeds and a cosine decay. AdamW's eps is as large as the gradients
and far above their rounding, so that CPUs that round differently give the same curve.
"""

import json
import sys
import tempfile
from pathlib import Path

from tests import ranks
from tests.train.conftest import make_ground

FILE = Path(__file__).with_name("golden_losses.json")
OVERRIDES = [
    *("model.dtype=float32", "optim.max_steps=30", "optim.schedule=cosine", "optim.eps=1e-2", "save.every_steps=30"),
    *("augment.speed=[0.9, 1.1]", "augment.time_masks=2", "augment.feature_masks=1"),
]


def curve(ground: Path, folder: Path) -> dict[str, list[float]]:
    """Losses and gradient norms of a training in `folder`, step by step."""
    run = folder / "run"
    ranks.train([str(ground / "recipe.yaml"), f"run.dir={run}", *OVERRIDES], 1, folder / "log")
    return {"loss": ranks.losses(run), "grad_norm": ranks.losses(run, figure="grad_norm")}


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "ground").mkdir()
        values = curve(make_ground(Path(folder) / "ground"), Path(folder))
    lines = ",\n".join(
        f' "{name}": {json.dumps([float(f"{value:.8g}") for value in row])}' for name, row in values.items()
    )
    FILE.write_text(f"{{\n{lines}\n}}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
