"""The recipe's sections for validation, checkpoints, warnings and reports. None of them influences the weights."""

from typing import Any, Literal

from pydantic import model_validator

from data_prep.paths import LocalPath
from model.errors import UserError
from train.recipe.kinds import Address, Auto, Count, Section, Text, WithoutPassword


class EvalConfig(Section):
    """Evaluation on data.dev during training. No influence on the weights."""

    every_steps: Count | Auto | None = "auto"
    """Optimizer steps between evaluations; null = at every save. auto: the same, or a multiple of save.every_steps
    where the dev set is so large that it would take more than a tenth of the time."""
    at_start: bool = False
    """Whether to evaluate before the first step too."""
    patience: Count | None = None
    """Evaluations in a row without a better figure of save.best after which the run ends, as finished; null = never.
    Those of the warm-up do not count, nor, with save.best wer, those before the WER is below 100 %."""
    wer: bool = True
    """Whether to decode and score (WER), beside loss and token accuracy."""
    beams: Count = 1
    """Beam width of that decoding; 1 = greedy."""
    max_new_tokens: Count | None = None
    """Longest answer in LLM tokens; null = bounded by the length of the audio alone."""
    tokens: Count = 4000
    """LLM tokens a batch in evaluation."""


class SaveConfig(Section):
    """Checkpoints, in run.dir/checkpoints. No influence on the weights."""

    strategy: Literal["steps", "epoch"] = "steps"
    """When to save: every `every_steps`, or at the end of every epoch. The last step is always saved."""
    every_steps: Count | Auto = "auto"
    """Optimizer steps between saves, with strategy steps. auto: a tenth of the run, from 10 to 1,000."""
    total_limit: Count | None = 3
    """Newest checkpoints kept, besides the best; null = all."""
    best: Literal["auto", "loss", "accuracy", "wer", "none"] = "auto"
    """The figure on data.dev that picks the checkpoint kept as the best, which score, transcribe and export take from
    the run; none = no best, they take the newest. auto = wer, without eval.wer loss, without data.dev none."""


class WatchConfig(Section):
    """Checks whether the LLM uses the audio. No influence on the weights."""

    every_steps: Count | Auto | None = "auto"
    """Optimizer steps between measurements of the loss with the speech of other utterances; null = none. auto: a
    fortieth of the run, from 25 to 200."""
    patience_steps: Count | Auto = "auto"
    """Optimizer steps without a rise of the token accuracy after which the run warns. auto: a quarter of the run, from
    200 to 2,000."""


class LogConfig(Section):
    """Progress; metrics.jsonl is always written."""

    every_steps: Count = 10
    """Optimizer steps between reports."""
    tensorboard: bool = False
    """Whether to write TensorBoard files too (pip install 'slam-asr[tensorboard]')."""
    wandb: Text | None = None
    """W&B project to report to (pip install 'slam-asr[wandb]'; log in with `wandb login`); null = none."""
    mlflow: WithoutPassword | None = None
    """MLflow tracking server to report to (pip install 'slam-asr[mlflow]'; MLFLOW_TRACKING_PASSWORD); null = none."""
    prometheus: Address | None = None
    """Where each rank serves its metrics to Prometheus: a port of 127.0.0.1, an address (any free port), or
    address:port; the local rank is added to the port. 0.0.0.0 serves other hosts, to anybody. null = nowhere."""
    prometheus_targets: LocalPath | None = None
    """Folder that gets NAME.json, the scrape targets of run NAME, beside prometheus/targets.json in the run."""

    @model_validator(mode="before")
    @classmethod
    def _without_removed_keys(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Drops keys of earlier versions that are null, as in an old config.yaml."""
        removed = {"pushgateway", "prometheus_textfiles"} & values.keys() if isinstance(values, dict) else set()
        if given := sorted(name for name in removed if values[name] is not None):
            raise UserError(f"log.{given[0]} is gone; give log.prometheus and log.prometheus_targets (docs/cluster.md)")
        return {name: values[name] for name in values if name not in removed} if removed else values
