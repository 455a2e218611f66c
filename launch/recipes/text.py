"""A recipe as commented YAML text, for `slam-asr recipe new` and `slam-asr run`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from launch.recipes.choices import choices_table, choose

PLAIN = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./@+=-]*")
"""Text that YAML takes without quotes."""


@dataclass(frozen=True)
class Wanted:
    """What a recipe is written for."""

    train: tuple[str, ...]
    dev: tuple[str, ...]
    encoder: str
    llm: str
    llm_width: int
    """Values in one of the LLM's embeddings."""
    hours: float
    """Of training data."""
    run: str
    """Folder of the run."""
    epoch_tokens: float = math.inf
    """LLM tokens of an epoch, about; unknown where the data are not there yet."""
    gpus: int = 0
    """Ranks that share the micro-batches of a step evenly; 0 leaves the number of micro-batches to `auto`."""


def recipe_text(wanted: Wanted) -> str:
    """YAML that load_config reads; it ends in a newline."""
    choice = choose(wanted.hours, wanted.llm_width, wanted.epoch_tokens)
    hours = f"{wanted.hours:.2g}" if wanted.hours < 10 else f"{wanted.hours:,.0f}"
    why = "against learning little data by heart" if choice.dropout else "there is data enough to do without dropout"
    lines = [
        f"# For {hours} hours to train on and an LLM of width {wanted.llm_width:,}; by `slam-asr recipe new`.",
        "# What is not written here has the default of train/recipe/config.py. Those that are `auto` there (batch,",
        "# warm-up, steps between saves) are decided when the run begins, said, and written to its config.yaml.",
        "",
        "model:",
        f"  encoder: {_text(wanted.encoder)}",
        f"  llm: {_text(wanted.llm)}",
        f"  adapter: {{stack: 5, hidden: {choice.hidden}, dropout: {choice.dropout:g}}}  # {why}",
        "",
        "data:",
        f"  train: {_texts(wanted.train)}",
        *([f"  dev: {_texts(wanted.dev)}", "  max_dev_samples: 500"] if wanted.dev else []),
        "  max_seconds: 30",
        "  over_length: drop  # longer ones are counted and left out, never cut",
        "",
    ]
    if wanted.gpus:
        each = max(1, round(8 / wanted.gpus))
        shared = f"a step, over all ranks together: {each} each on {wanted.gpus} GPUs"
        lines += ["batch:", f"  micro_batches: {wanted.gpus * each}  # {shared}", ""]
    if choice.masks:
        lines += ["augment:  # SpecAugment over encoder frames, which needs no audio, so that features can be cached"]
        lines += [f"  time_masks: {choice.masks}", f"  feature_masks: {choice.masks}", ""]
    lines += [
        "optim:",
        f"  lr: {choice.lr:g}  # {choice.lr_why}",
        "  schedule: cosine",
        f"  epochs: {choice.epochs}  # for {hours} hours; see below",
        "",
        *(["save: {best: wer}  # keeps the checkpoint with the lowest WER on dev"] if wanted.dev else []),
        f"run: {{dir: {_text(wanted.run)}, seed: 0}}",
        "",
        f"# With an LLM of width {wanted.llm_width:,}:",
        *(f"#   {line}" for line in choices_table(wanted.llm_width)),
    ]
    return "\n".join(lines) + "\n"


def _texts(paths: Sequence[str]) -> str:
    return _text(paths[0]) if len(paths) == 1 else f"[{', '.join(map(_text, paths))}]"


def _text(text: str) -> str:
    return text if PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
