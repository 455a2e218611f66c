"""A recipe as commented YAML, for `slam-asr recipe new` and `slam-asr run`: what to train with by hours and LLM."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from data_prep.figures import table
from model.prompt import SHORT_TEMPLATE
from train.recipe.auto import LEAST_STEP

PLAIN = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./@+=-]*")
"""Text that YAML takes without quotes."""
TOY_WIDTH = 512  # below it an LLM is a stand-in such as model/stand_in/llm
SMALL_WIDTH = 1499  # up to it an LLM hardly copies what it hears without LoRA
HOURS_SHOWN = (1, 10, 100, 1000)
EPOCHS = ((3.0, 30), (30.0, 15), (300.0, 6), (math.inf, 3))
"""(at most so many hours of training data, epochs). It takes some thousands of steps until the LLM begins to
transcribe: few hours need many epochs for that, many hours hardly one."""
TOY_EPOCHS = ((1.0, 15), (10.0, 6), (100.0, 3), (math.inf, 2))
"""The same for a toy, which transcribes after some hundred steps (`make demo`)."""
SMALL_EPOCHS = ((1.5, 30), (4.0, 20), (30.0, 10))
"""The same for a small LLM with LoRA, which begins to transcribe earlier and learns few hours by heart."""
RATES = (
    (TOY_WIDTH - 1, 2e-3, "a toy"),
    (SMALL_WIDTH, 1e-3, "small"),
    (2047, 3e-4, "of middle size"),
    (math.inf, 1e-4, "as wide as the paper's or wider (arXiv 2402.08846)"),
)
"""(an LLM of at most this width, learning rate, reason)."""
SMALL_HOURS = 30.0
"""Up to here the data are seen so often that dropout and SpecAugment's masks are needed against overfitting."""
SHORT_SECONDS, CUT_SECONDS = 6.0, 10.0
"""Mean lengths of utterances below which the prompt's tokens, and the silence of windows of 30 s, are much of the work.
"""
LEAST_STEPS, MOST_EPOCHS = 300, 200
"""Of a run: in fewer steps an adapter rarely learns to transcribe, so minutes of data are seen more often."""


@dataclass(frozen=True)
class Choice:
    """Values of a recipe, and the reason for its learning rate."""

    epochs: int
    lr: float
    lr_why: str
    hidden: int
    lora: int
    """Its rank; 0 without."""
    dropout: float
    masks: int
    """SpecAugment's, in time and as many in features."""


def choose(hours: float, width: int, epoch_tokens: float = math.inf, takes_lora: bool = True) -> Choice:
    """For so many hours of training data, and an LLM whose embeddings have `width` values. `epoch_tokens` is about the
    number of LLM tokens in an epoch: minutes of data make few steps an epoch."""
    steps = max(1.0, epoch_tokens / LEAST_STEP)
    small, toy = hours <= SMALL_HOURS, width < TOY_WIDTH
    lora = takes_lora and small and TOY_WIDTH <= width <= SMALL_WIDTH
    lr, lr_why = next((lr, why) for most, lr, why in RATES if width <= most)
    epochs = next(epochs for most, epochs in (TOY_EPOCHS if toy else SMALL_EPOCHS if lora else EPOCHS) if hours <= most)
    return Choice(
        epochs=max(epochs, min(MOST_EPOCHS, math.ceil(LEAST_STEPS / steps))),
        lr=lr,
        lr_why=f"the LLM is {width:,} wide: {lr_why}",
        hidden=512 if toy else 2048,
        lora=8 if lora else 0,
        dropout=0.1 if small else 0.0,
        masks=2 if small else 0,
    )


@dataclass(frozen=True)
class Wanted:
    """What a recipe is written for."""

    train: Sequence[str]
    dev: Sequence[str]
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
    mean_seconds: float = math.inf
    """Of an utterance; unknown where the data are not there yet."""
    window: str | None = None
    """model.encoder_window."""
    peft: bool = True
    """Whether LoRA's package is installed."""
    takes_lora: bool = True
    """Whether the LLM has layers that LoRA adapts by default."""


def window_of(encoder_type: str, mean_seconds: float) -> str | None:
    """The model.encoder_window for an encoder family and utterances of such a mean length; None for its default."""
    from model.encoders import ENCODER_FAMILIES, Encoder

    windows = ENCODER_FAMILIES.get(encoder_type, Encoder).windows
    return "cut" if "cut" in windows and mean_seconds < CUT_SECONDS else None


def recipe_text(wanted: Wanted) -> str:
    """YAML that load_config reads; it ends in a newline."""
    width, takes_lora = wanted.llm_width, wanted.takes_lora
    choice = choose(wanted.hours, width, wanted.epoch_tokens, takes_lora)
    hours = f"{wanted.hours:.2g}" if wanted.hours < 10 else f"{wanted.hours:,.0f}"
    why = "against learning little data by heart" if choice.dropout else "there is data enough to do without dropout"
    lines = [
        f"# For {hours} hours to train on and an LLM of width {width:,}; by `slam-asr recipe new`.",
        "# What is not written here has the default of train/recipe/config.py. Those that are `auto` there (batch,",
        "# warm-up, steps between saves) are decided when the run begins, said, and written to its config.yaml.",
        "",
        "model:",
        f"  encoder: {_text(wanted.encoder)}",
        f"  llm: {_text(wanted.llm)}",
        f"  adapter: {{stack: 5, hidden: {choice.hidden}, dropout: {choice.dropout:g}}}  # {why}",
        *_for_short_utterances(wanted),
        "",
        "data:",
        f"  train: {_text(*wanted.train)}",
        *([f"  dev: {_text(*wanted.dev)}", "  max_dev_samples: 500"] if wanted.dev else []),
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
    if choice.lora:
        why = "on queries and values: it helps a small LLM to use the audio; rate and decay are those of optim"
        lines += [
            f"lora: {{rank: {choice.lora}}}  # {why}"
            if wanted.peft
            else f"# lora: {{rank: {choice.lora}}}  # helps a small LLM; first: pip install 'slam-asr[lora]'",
            "",
        ]
    head = ("hours", "epochs", "lr", "lora.rank", "adapter.dropout", "augment.time_masks", "augment.feature_masks")
    shown = [(h, choose(h, width, takes_lora=takes_lora)) for h in HOURS_SHOWN]
    rows = [(f"{h:,}", c.epochs, f"{c.lr:g}", c.lora, f"{c.dropout:g}", c.masks, c.masks) for h, c in shown]
    lines += [
        "optim:",
        f"  lr: {choice.lr:g}  # {choice.lr_why}",
        "  schedule: cosine",
        f"  epochs: {choice.epochs}  # for {hours} hours; see below",
        "",
        f"run: {{dir: {_text(wanted.run)}, seed: 0}}",
        "",
        f"# With an LLM of width {width:,}:",
        *(f"#   {line}" for line in table(rows, head, left=())),
    ]
    return "\n".join(lines) + "\n"


def _for_short_utterances(wanted: Wanted) -> list[str]:
    """Lines of `model` that save work where utterances are short."""
    mean, lines = f"utterances have {wanted.mean_seconds:.1f} s on average", []
    if wanted.window is not None:
        lines.append(f"  encoder_window: {wanted.window}  # {mean}; padded to 30 s they take longer")
    if wanted.mean_seconds < SHORT_SECONDS and wanted.llm_width >= TOY_WIDTH:
        lines.append(f"  prompt: {json.dumps(SHORT_TEMPLATE)}  # short: its tokens cost as much as those of speech")
    return lines


def _text(*texts: str) -> str:
    """YAML of a text, or of the list of several."""
    written = [text if PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False) for text in texts]
    return written[0] if len(written) == 1 else f"[{', '.join(written)}]"
