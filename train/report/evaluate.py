"""Validation during training: loss, token accuracy, WER and words on silence on the dev set, shared among all ranks."""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np

from decode.dataset import Hypothesis, decode_ids, write_hypotheses
from decode.options import DecodeOptions
from decode.scoring.counts import Score, score_each
from model.batch import with_speech_rolled
from train.data.corpus import Corpus
from train.data.loader import Share
from train.data.plan import plan_in_order
from train.dist.collectives import World
from train.engine.engine import Engine
from train.liveness.watchdog import RankStatus
from train.recipe.config import EvalConfig


@dataclass(frozen=True)
class Evaluator:
    """Scores the dev set; every rank makes the same number of calls, as ZeRO-3 needs."""

    corpus: Corpus
    config: EvalConfig
    world: World
    folder: Path  # where hypotheses are written, for people to read
    say: Callable[[str], None]

    def __call__(self, engine: Engine, step: int, at: Callable[[RankStatus], None]) -> dict[str, float]:
        """{"loss", "accuracy"} and, if asked for, what `decoded` gives, over the whole dev set; the same on every rank.
        `at` reports progress to the watchdog. A collective."""
        sums = np.zeros(3)
        batches = plan_in_order(self.corpus.ids, self.corpus.tokens, self.config.tokens)
        for first in range(0, len(batches), self.world.size):
            at(RankStatus.EVALUATING)
            number = first + self.world.rank  # beyond the last batch: one that another rank counts
            batch = self.corpus.read(batches[number % len(batches)], engine.model.prompt)
            output = engine.evaluate(batch)
            counts = np.array([float(output.loss), float(output.num_correct), batch.num_targets])
            sums += (number < len(batches)) * counts
        loss, correct, targets = self.world.sum(*sums)
        scores = {"loss": loss / targets, "accuracy": correct / targets}
        return scores | decoded(self._hypotheses(engine, step, at)) if self.config.wer else scores

    def _hypotheses(self, engine: Engine, step: int, at: Callable[[RankStatus], None]) -> list[Hypothesis]:
        at(RankStatus.DECODING)
        synced = engine.stage == 3 and self.world.size > 1
        options = DecodeOptions(self.config.beams, self.config.max_new_tokens, self.config.tokens, synced)
        own = decode_ids(
            *(engine.model, self.corpus.index, self.corpus.ids, options, self.world.rank, self.world.size),
            progress=lambda _: at(RankStatus.DECODING),
        )
        at(RankStatus.WAITING)
        rows = [Hypothesis(*fields) for part in self.world.gather([astuple(row) for row in own]) for fields in part]
        if self.world.first:
            path = self.folder / f"step-{step:08d}.jsonl"
            try:
                self.folder.mkdir(exist_ok=True)
                write_hypotheses(path, sorted(rows, key=lambda row: row.key), [{}] * len(rows))
            except OSError as error:
                self.say(f"cannot write {path}, the hypotheses of the dev set: {error.strerror}; training goes on")
        return rows


def decoded(rows: Sequence[Hypothesis]) -> dict[str, float]:
    """{"wer"} of all utterances, where any has words; where some have none, {"hallucinated_words"}, the words of the
    hypotheses of these, and {"silent_utterances"}, their number. As in score.json, such words are insertions, too."""
    each = score_each([row.reference for row in rows], [row.hypothesis for row in rows])
    total, silent = sum(each, Score()), [one for one in each if not one.words]
    scores = {"wer": total.wer} if total.words else {}
    if silent:
        words = sum(one.insertions for one in silent)
        scores |= {"hallucinated_words": words, "silent_utterances": len(silent)}
    return scores


def audio_gap(engine: Engine, share: Share, world: World) -> float | None:
    """How much the loss of a micro-batch's answers rises, in nats a token, if its utterances exchange their speech: 0
    if the LLM ignores it. None if no rank has two utterances to exchange. A collective."""
    batch = replace(share.slots[0].batch, masked_frames=None, masked_dims=None, masked_targets=None)
    counts = share.slots[0].counts and len(batch) > 1
    true, exchanged = engine.evaluate(batch), engine.evaluate(with_speech_rolled(batch))
    gap, targets = world.sum(*((float(exchanged.loss - true.loss), batch.num_targets) if counts else (0.0, 0)))
    return gap / targets if targets else None


def better(scores: dict[str, float], by: str, best: float | None) -> float | None:
    """The score by which checkpoints are compared (lower is better) if it beats `best`, else None."""
    if by == "none" or by not in scores:
        return None
    value = -scores[by] if by == "accuracy" else scores[by]
    return value if np.isfinite(value) and (best is None or value < best) else None


def counts(by: str, best: float | None) -> bool:
    """Whether an evaluation that was no better than `best` counts for eval.patience. A WER of 100 %, which saying
    nothing reaches, is of before the LLM transcribes; how long that takes is no matter of overfitting."""
    return best is not None and (by != "wer" or best < 1)
