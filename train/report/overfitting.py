"""Tells from the figures of training and of the dev set whether a run learns its data by heart.

Two signs. Token accuracy in training far above that on the dev set, by more than at an earlier evaluation: a distance
from the start on is that of another kind of speech. And a loss on the dev set that rises, without a gain of accuracy
there, while the training loss falls. Dropout and SpecAugment lower the training accuracy, so the true distance is
larger than the one seen; the accuracy of training is a mean over the steps since the evaluation before."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from model.errors import counted
from train.recipe.config import Config

FAR, GROWN = 0.15, 0.10
"""Accuracy in training less that on dev, and its growth since it was least: 0.15 is more than the noise of 20
utterances (200 tokens, standard error 0.035) and of a quick rise within an interval."""
RISE = 0.05  # of the dev loss above its lowest, as a share of that
FALL = 0.03  # of the training loss since then
GAIN = 0.02  # of dev accuracy: with it the LLM still learns, and is only surer of its mistakes
EVALUATIONS = 2  # in a row with the loss that much higher
BETWEEN = 5  # evaluations between two lines


class Overfitting:
    """Follows one run's figures; `evaluation` returns lines to print. It influences nothing."""

    def __init__(self, remedies: str) -> None:
        """`remedies` ends each line: what this run can do against it."""
        self._remedies = remedies
        self._sums, self._reports = [0.0, 0.0], 0  # accuracy and loss in training since the last evaluation
        self._least_gap = math.inf
        self._lowest: tuple[float, int, float, float] | None = None  # dev loss, its step, dev accuracy, training loss
        self._rising = 0  # evaluations in a row with a higher loss
        self._silent = 0  # evaluations in which nothing is said

    @classmethod
    def from_metrics(cls, records: Iterable[dict[str, Any]], remedies: str) -> "Overfitting":
        """As it was after these records of metrics.jsonl, so that a resumed run does not repeat lines."""
        watch = cls(remedies)
        for record in records:
            figures = {k: v for k, v in record.items() if isinstance(v, int | float)}
            if record.get("kind") == "train":
                watch.training(figures.get("accuracy", math.nan), figures.get("loss", math.nan))
            elif record.get("kind") == "dev" and "step" in figures:
                watch.evaluation(int(figures["step"]), figures)
        return watch

    def training(self, accuracy: float, loss: float) -> None:
        """After a report of token accuracy (0 to 1) and loss (nats a token) in training."""
        if math.isfinite(accuracy) and math.isfinite(loss):
            self._sums = [self._sums[0] + accuracy, self._sums[1] + loss]
            self._reports += 1

    def evaluation(self, step: int, scores: Mapping[str, float]) -> list[str]:
        """After an evaluation of the dev set at `step`, {"loss", "accuracy", ...}: at most one line."""
        loss, accuracy = (scores.get(name, math.nan) for name in ("loss", "accuracy"))
        if not self._reports or not (math.isfinite(loss) and math.isfinite(accuracy)):
            return []
        trained, trained_loss = (total / self._reports for total in self._sums)
        self._sums, self._reports = [0.0, 0.0], 0
        gap, grown = trained - accuracy, trained - accuracy - self._least_gap
        self._least_gap = min(self._least_gap, gap)
        self._silent = max(0, self._silent - 1)
        signs = self._rise(step, loss, accuracy, trained_loss)
        if gap >= FAR and grown >= GROWN:
            signs.append(
                f"token accuracy is {trained:.1%} in training and {accuracy:.1%} on dev, {100 * gap:.0f} points lower, "
                f"where the difference was {100 * self._least_gap:.0f} points before"
            )
        if not signs or self._silent:
            return []
        self._silent = BETWEEN
        return [f"step {step}: overfitting: {'; '.join(signs)}; {self._remedies}"]

    def _rise(self, step: int, loss: float, accuracy: float, trained_loss: float) -> list[str]:
        if self._lowest is None or loss < self._lowest[0]:
            self._lowest, self._rising = (loss, step, accuracy, trained_loss), 0
            return []
        lowest, at, accuracy_then, trained_then = self._lowest
        falls = trained_loss <= trained_then * (1 - FALL)
        rises = loss >= lowest * (1 + RISE) and accuracy < accuracy_then + GAIN and falls
        self._rising = self._rising + 1 if rises else 0
        if self._rising < EVALUATIONS:
            return []
        return [
            f"for {counted(self._rising, 'evaluation')} the loss on dev is higher, now {loss:.2f}, than at step {at} "
            f"({lowest:.2f}), while that of training fell from {trained_then:.2f} to {trained_loss:.2f}"
        ]


def remedies(config: Config) -> str:
    """What a run of this recipe, which is decided, can do against overfitting."""
    adapter, augment, lora = config.model.adapter, config.augment, config.lora
    todo = ["more speech"]
    if adapter.dropout < 0.1:
        todo.append("model.adapter.dropout=0.1")
    if not (augment.time_masks and augment.feature_masks):
        todo.append("augment.time_masks=2 and augment.feature_masks=2")
    if lora.rank > 4:
        todo.append(f"lora.rank={lora.rank // 2}")
    todo.append("a smaller optim.epochs" if config.optim.max_steps is None else "fewer optim.max_steps")
    kept = f"checkpoints/best keeps the step with the best {config.save.best}"
    if config.save.best == "none":
        kept = "save.best=wer keeps the best step"
    return f"against it: {', '.join(todo)}; {kept}"
