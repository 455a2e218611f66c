"""Validation during training: loss, token accuracy and WER on the dev set, shared among all ranks."""

from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np

from decode.dataset import DecodeOptions, Hypothesis, decode_ids, write_hypotheses
from decode.score import score
from model.batch import with_speech_rolled
from train.data.corpus import Corpus
from train.data.loader import Share
from train.data.plan import plan_in_order
from train.dist.collectives import World
from train.engine.engine import Engine
from train.recipe.config import EvalConfig

NORMALISER = "plain"


@dataclass(frozen=True)
class Evaluator:
    """Scores the dev set; every rank makes the same number of calls, as ZeRO-3 needs."""

    corpus: Corpus
    config: EvalConfig
    world: World
    folder: Path
    """Where the latest hypotheses are written, for people to read."""
    say: Callable[[str], None]
    """Tells a person."""

    def __call__(self, engine: Engine, step: int, at: Callable[[str], None]) -> dict[str, float]:
        """{"loss", "accuracy"} and, if asked for, {"wer"}, over the whole dev set; the same on every rank.

        A collective.
        """
        sums = np.zeros(3)
        for ids, counts in self._share():
            at("evaluating")
            batch = self.corpus.read(ids, engine.model.prompt)
            output = engine.evaluate(batch)
            sums += counts * np.array([float(output.loss), float(output.num_correct), batch.num_targets])
        loss, correct, targets = self.world.sum(*sums)
        scores = {"loss": loss / targets, "accuracy": correct / targets}
        if self.config.wer:
            scores["wer"] = self._wer(engine, step, at)
        return scores

    def _share(self) -> list[tuple[np.ndarray, bool]]:
        """This rank's micro-batches; the last may be one that another rank counts."""
        whole = plan_in_order(self.corpus.ids, self.corpus.tokens, self.config.tokens)
        rounds = -(-len(whole) // self.world.size)
        numbers = [self.world.rank + turn * self.world.size for turn in range(rounds)]
        return [(whole[n % len(whole)], n < len(whole)) for n in numbers]

    def _wer(self, engine: Engine, step: int, at: Callable[[str], None]) -> float:
        """Word error rate, greedy or with beams; a collective."""
        at("decoding")
        synced = engine.stage == 3 and self.world.size > 1
        options = DecodeOptions(self.config.beams, self.config.max_new_tokens, self.config.tokens, synced)
        own = decode_ids(
            *(engine.model, self.corpus.index, self.corpus.ids, options, self.world.rank, self.world.size),
            progress=lambda _: at("decoding"),
        )
        at("waiting")
        heard = [Hypothesis(*fields) for part in self.world.gather([astuple(one) for one in own]) for fields in part]
        if self.world.first:
            self._write(self.folder / f"step-{step:08d}.jsonl", sorted(heard, key=lambda one: one.key))
        return score([one.reference for one in heard], [one.hypothesis for one in heard], NORMALISER).wer

    def _write(self, path: Path, rows: list[Hypothesis]) -> None:
        """For people to read: a disk that does not take it ends no training."""
        try:
            self.folder.mkdir(exist_ok=True)
            write_hypotheses(path, rows, [{}] * len(rows))
        except OSError as error:
            self.say(f"cannot write {path}, the dev set as it was recognised: {error.strerror}; training goes on")


def audio_gap(engine: Engine, share: Share, world: World) -> float | None:
    """How much worse the LLM predicts a micro-batch's answers, in nats a token, when its utterances exchange their
    speech: 0 where it does not listen. None where no rank has two utterances to exchange. A collective."""
    batch = replace(share.slots[0].batch, masked_frames=None, masked_dims=None)
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
