"""Validation during training: loss, token accuracy and WER on the dev set, shared among all ranks."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from decode.generate import transcribe_batch
from decode.score import score
from train.config import EvalConfig
from train.corpus import Corpus
from train.engine import Engine
from train.plan import plan_in_order
from train.world import World

NORMALISER = "plain"


@dataclass(frozen=True)
class Evaluator:
    """Scores the dev set; every rank makes the same number of calls, as ZeRO-3 needs."""

    corpus: Corpus
    config: EvalConfig
    world: World
    folder: Path
    """Where the latest hypotheses are written, for people to read."""

    def __call__(self, engine: Engine, step: int) -> dict[str, float]:
        """{"loss", "accuracy"} and, if asked for, {"wer"}, over the whole dev set; the same on every rank.

        A collective.
        """
        sums = np.zeros(3)
        pairs: list[tuple[str, str, str]] = []
        synced = engine.stage == 3 and self.world.size > 1
        for ids, counts in self._share():
            batch = self.corpus.read(ids, engine.model.prompt)
            output = engine.evaluate(batch)
            sums += counts * np.array([float(output.loss), float(output.num_correct), batch.num_targets])
            if self.config.wer:
                on_device = batch.to(self.world.device)
                texts = transcribe_batch(engine.model, on_device, self.config.beams, self.config.max_new_tokens, synced)
                pairs += list(zip(batch.keys, batch.texts, texts, strict=True)) if counts else []
        loss, correct, targets = self.world.sum(*sums)
        scores = {"loss": loss / targets, "accuracy": correct / targets}
        if self.config.wer:
            scores["wer"] = self._wer(pairs, step)
        return scores

    def _share(self) -> list[tuple[np.ndarray, bool]]:
        """This rank's micro-batches; the last may be one that another rank counts."""
        whole = plan_in_order(self.corpus.ids, self.corpus.tokens, self.config.tokens)
        rounds = -(-len(whole) // self.world.size)
        numbers = [self.world.rank + turn * self.world.size for turn in range(rounds)]
        return [(whole[n % len(whole)], n < len(whole)) for n in numbers]

    def _wer(self, pairs: list[tuple[str, str, str]], step: int) -> float:
        every = sorted(pair for part in self.world.gather(pairs) for pair in part)
        if self.world.first:
            lines = [json.dumps({"key": k, "reference": r, "hypothesis": h}, ensure_ascii=False) for k, r, h in every]
            self.folder.mkdir(exist_ok=True)
            (self.folder / f"step-{step:08d}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
        return score([r for _, r, _ in every], [h for _, _, h in every], NORMALISER).wer


def better(scores: dict[str, float], by: str, best: float | None) -> float | None:
    """The score by which checkpoints are compared (lower is better) if it beats `best`, else None."""
    if by == "none" or by not in scores:
        return None
    value = -scores[by] if by == "accuracy" else scores[by]
    return value if np.isfinite(value) and (best is None or value < best) else None
