"""The recipe: what is trained, as immutable sections. Where it runs (ranks, ZeRO stage) is given on the command line.

`load_config("recipe.yaml", ["optim.lr=2e-4"])` reads the YAML and the overrides (yaml.py); pydantic checks every value
by the types below, in models.py and in kinds.py. Paths start at the current directory; `~` and `$NAME` are expanded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from data_prep.audio.augment import AugmentConfig
from data_prep.paths import LocalPath
from model.errors import UserError
from train.recipe.kinds import (
    Auto,
    Count,
    Directories,
    NotNegative,
    Paths,
    Positive,
    Ratio,
    Section,
    Share,
    Whole,
    validated,
)
from train.recipe.models import LoraConfig, ModelConfig
from train.recipe.observing import EvalConfig, LogConfig, SaveConfig, WatchConfig
from train.recipe.yaml import lay_over, read_yaml_file


class DataConfig(Section):
    """What is read: directories made by `slam-asr prep build` (audio) or `slam-asr prep features` (cached frames)."""

    train: Directories
    """Shard or feature directories to train on."""
    dev: Paths = ()
    """The same, to evaluate on during training; may be empty."""
    max_seconds: Positive = 30.0
    """Longest utterance taken, in seconds of audio."""
    min_seconds: NotNegative = 0.1
    """Shortest utterance taken, in seconds of audio."""
    max_characters: Count = 1000
    """Longest transcript taken, in characters."""
    over_length: Literal["refuse", "drop"] = "refuse"
    """Utterances outside these limits: an error that names them, or left out with a count. They are never cut."""
    max_train_samples: Count | None = None
    """Take only the first so many utterances of `train`; null = all."""
    max_dev_samples: Count | None = None
    """Take only so many utterances of `dev`, spread evenly over it; null = all."""
    seed: Whole | None = None
    """Of the order of the data; null = run.seed."""
    reader_threads: Count = 2
    """Threads a rank that read and decode ahead. No influence on results."""
    retry_seconds: NotNegative = 15.0
    """How long an utterance that cannot be read is tried again."""
    max_lost: Ratio = 0.01
    """Share of the utterances that may be left out because they cannot be read; past it the run ends. Each is named."""
    shuffle_shards: Count | None = None
    """Shards whose samples are shuffled together, other ones in each epoch; null = all. For shards at addresses that
    exceed the cache, or on disks that are slow to seek."""
    cache_dir: LocalPath | None = None
    """Folder for copies of shards that lie at addresses (s3://...); null = SLAM_ASR_CACHE, or the user's cache."""
    cache_gb: Positive | None = None
    """Size of that folder on each host, in GB; null = SLAM_ASR_CACHE_GB, or 100 or half of what is free."""
    write_features: LocalPath | None = None
    """Directory that keeps the encoder's frames in the first epoch; from the second on they are read from there."""
    feature_dtype: Literal["float16", "bfloat16", "float32", "int8"] = "float16"
    """What write_features keeps them as; int8 has a scale a frame and half the bytes."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_seconds >= self.max_seconds:
            raise UserError(f"data.min_seconds {self.min_seconds} is not below data.max_seconds {self.max_seconds}")
        return self


class BatchConfig(Section):
    """How samples become steps. Nothing here depends on the number of GPUs."""

    tokens: Count | Auto = "auto"
    """LLM tokens (prompt, speech embeddings and transcript) a micro-batch. auto: what a step of a 200th of the data
    needs, from 1,000 to 64,000 tokens a step, and at most what the device holds (at most 8,000)."""
    micro_batches: Count | Auto = "auto"
    """Micro-batches an optimizer step, over all ranks together: 8 = 1 rank accumulating 8 = 4 ranks accumulating 2.
    auto: 8, less where the data are so few that the longest utterance would not fit, more where the device is small."""
    layout: Literal["packed", "padded"] = "packed"
    """Utterances end to end, or padded to the longest: the plain reference, slower, same results."""


class OptimConfig(Section):
    """AdamW and its learning rate. Of max_steps and epochs one is given, or both; the first reached ends the run."""

    lr: Positive = 1e-4
    """Highest learning rate."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """AdamW's decay of the first and second moment, a step."""
    eps: Positive = 1e-8
    """Added to AdamW's denominator."""
    weight_decay: NotNegative = 0.0
    """AdamW's decoupled weight decay."""
    clip: NotNegative = 1.0
    """Highest norm of the gradient of a step; 0 = no clipping."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """What follows the warm-up: the same learning rate, or a decay to 0 at the last step."""
    warmup_steps: Whole | Auto | None = "auto"
    """Steps in which the learning rate rises from 0 to lr. auto: a tenth of the run, at most 1,000 (the paper's)."""
    warmup_ratio: Ratio | None = None
    """The same as a share of all steps; instead of warmup_steps."""
    max_steps: Count | None = None
    """Optimizer steps after which the run ends; null = no such limit."""
    epochs: Positive | None = None
    """Passes over the data after which the run ends, fractions allowed; null = no such limit."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_steps is None and self.epochs is None:
            raise UserError("neither optim.max_steps nor optim.epochs is given; give at least one")
        if self.warmup_ratio is not None and isinstance(self.warmup_steps, int):
            raise UserError(
                f"optim.warmup_steps {self.warmup_steps} and optim.warmup_ratio {self.warmup_ratio} are both given; "
                "write null for one of them"
            )
        if (self.warmup_ratio is None) == (self.warmup_steps is None):  # one of the two is set, the other is None
            object.__setattr__(self, "warmup_steps", "auto" if self.warmup_ratio is None else None)
        return self


class RunConfig(Section):
    """This run."""

    dir: LocalPath
    """Its folder: checkpoints, metrics, resolved config. The same command in the same folder resumes."""
    seed: Whole = 0
    """Of the adapter's first weights, of dropout, and of the order of the data unless data.seed is given."""
    deterministic: bool = False
    """Whether to refuse algorithms that may give other bits each time (a GPU is slower so; a CPU needs no help)."""
    collective_timeout_seconds: Count = 600
    """How long a rank waits for the others before it gives up."""
    stall_seconds: Whole = 300
    """How long without progress until the watchdog names the stalled rank and ends the run; 0 = no limit."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.stall_seconds >= self.collective_timeout_seconds:
            raise UserError(
                f"run.stall_seconds {self.stall_seconds} is not below run.collective_timeout_seconds "
                f"{self.collective_timeout_seconds}: a stalled rank would not be named"
            )
        return self


class Config(Section):
    """A whole recipe."""

    model: ModelConfig
    data: DataConfig
    batch: BatchConfig = BatchConfig()
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig
    lora: LoraConfig = LoraConfig()
    eval: EvalConfig = EvalConfig()
    save: SaveConfig = SaveConfig()
    watch: WatchConfig = WatchConfig()
    log: LogConfig = LogConfig()
    run: RunConfig

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.save.best not in ("auto", "none") and not self.data.dev:
            raise UserError(f"save.best is {self.save.best}, but data.dev is empty; give data.dev or save.best: none")
        if self.eval.patience is not None and (self.save.best == "none" or not self.data.dev):
            lacking = "save.best is none" if self.data.dev else "data.dev is empty"
            raise UserError(
                f"eval.patience is {self.eval.patience}, but {lacking}; give it, or leave eval.patience out"
            )
        if self.data.write_features and self.augment.needs_audio:
            raise UserError(
                "data.write_features keeps the frames of recordings as they are, augment changes their speed, adds "
                "noise or replaces them; leave one of the two out"
            )
        if self.save.best == "wer" and not self.eval.wer:
            raise UserError("save.best is wer, but eval.wer is false; write eval.wer: true or another save.best")
        return self

    def changed(self, section: str, **values: Any) -> Self:
        """The same with other values in a section; they are not checked."""
        return self.model_copy(update={section: getattr(self, section).model_copy(update=values)})

    @property
    def data_seed(self) -> int:
        """The seed of the order of the data."""
        return self.run.seed if self.data.seed is None else self.data.seed


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The recipe in `path` with overrides `section.key=value` laid over it; of a repeated override the last counts.

    An override's value is the text as it is, read by the rules of its field; a list may be written [a, b].
    UserError, one line with file and line number, for anything that is not a recipe."""
    return validated(Config, lay_over(read_yaml_file(path), overrides), "the recipe")
