"""A recipe as commented YAML text, for `slam-asr recipe new` and `slam-asr run`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from launch.recipes.choices import Choice, choose, table

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
    """Values in one of its embeddings."""
    hours: float
    """Of training data."""
    run: str
    """Folder of the run."""
    epoch_tokens: float = math.inf
    """LLM tokens of an epoch, about; unknown where the data are not there yet."""
    gpus: int = 0
    """That the micro-batches of a step are shared out to; 0 leaves their number to `auto`."""


def recipe_text(of: Wanted) -> str:
    """Loads by load_config; ends in a newline."""
    choice = choose(of.hours, of.llm_width, of.epoch_tokens)
    lines = [*_head(of), "", *_model(of, choice), "", *_data(of), "", *_batch(of), *_augment(choice)]
    lines += [*_optim(of, choice), "", *_rest(of), "", *_closing(of)]
    return "".join(f"{line}\n" for line in lines)


def _head(of: Wanted) -> list[str]:
    return [
        f"# For {_hours(of)} hours to train on and an LLM of width {of.llm_width:,}; by `slam-asr recipe new`.",
        "# What is not written here has the default of train/recipe/config.py. Those that are `auto` there (batch,",
        "# warm-up, steps between saves) are decided when the run begins, said, and written to its config.yaml.",
    ]


def _model(of: Wanted, choice: Choice) -> list[str]:
    why = "against learning little data by heart" if choice.dropout else "there is data enough to do without dropout"
    return [
        "model:",
        f"  encoder: {_text(of.encoder)}",
        f"  llm: {_text(of.llm)}",
        f"  adapter: {{stack: 5, hidden: {choice.hidden}, dropout: {choice.dropout:g}}}  # {why}",
    ]


def _data(of: Wanted) -> list[str]:
    lines = ["data:", f"  train: {_texts(of.train)}"]
    lines += [f"  dev: {_texts(of.dev)}", "  max_dev_samples: 500"] if of.dev else []
    return [*lines, "  max_seconds: 30", "  over_length: drop  # longer ones are counted and left out, never cut"]


def _batch(of: Wanted) -> list[str]:
    if not of.gpus:
        return []
    shared = of.gpus * max(1, round(8 / of.gpus))
    said = f"a step, over all ranks together: {shared // of.gpus} each on {of.gpus} GPUs"
    return ["batch:", f"  micro_batches: {shared}  # {said}", ""]


def _augment(choice: Choice) -> list[str]:
    if not choice.time_masks:
        return []
    return [
        "augment:  # SpecAugment over encoder frames, which needs no audio, so that features can be cached",
        f"  time_masks: {choice.time_masks}",
        f"  feature_masks: {choice.feature_masks}",
        "",
    ]


def _optim(of: Wanted, choice: Choice) -> list[str]:
    return [
        "optim:",
        f"  lr: {choice.lr:g}  # {choice.lr_why}",
        "  schedule: cosine",
        f"  epochs: {choice.epochs}  # for {_hours(of)} hours; see below",
    ]


def _rest(of: Wanted) -> list[str]:
    best = ["save: {best: wer}  # keeps the checkpoint with the lowest WER on dev"] if of.dev else []
    return [*best, f"run: {{dir: {_text(of.run)}, seed: 0}}"]


def _closing(of: Wanted) -> list[str]:
    return [f"# With an LLM of width {of.llm_width:,}:", *(f"#   {line}" for line in table(of.llm_width))]


def _hours(of: Wanted) -> str:
    return f"{of.hours:.2g}" if of.hours < 10 else f"{of.hours:,.0f}"


def _texts(paths: Sequence[str]) -> str:
    return _text(paths[0]) if len(paths) == 1 else f"[{', '.join(map(_text, paths))}]"


def _text(text: str) -> str:
    return text if PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
