"""Decodes the utterances of a shard directory, audio or cached features.

1. Batches are planned from the utterances' lengths: longest first, rows x longest within a budget, so that there is
   little padding and a budget too large for the memory fails at once.
2. Scoring: each free rank takes the next batch (`decode_batches`), so that no rank waits long for the others at the
   end. Training: rank r of R decodes batches r, r + R ... (`decode_ids`); the last round is filled up by repeating the
   cheapest batch, so that all ranks decode equally often, as ZeRO-3 needs. The batches, and so the hypotheses, are the
   same either way.
3. Utterances too short or too long to transcribe get an empty hypothesis and a note with the reason."""

import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.durable import canonical_json, replacing
from data_prep.shards.index import ShardIndex
from data_prep.shards.reader import read_batch
from data_prep.shards.tar import read_meta
from decode.generate import plan_batches, transcripts, unfit
from decode.options import Answer, DecodeOptions
from model.errors import UserError
from model.sample_rate import SAMPLE_RATE
from model.slam_asr import SlamAsr


@dataclass(frozen=True)
class Hypothesis:
    """The transcript of one utterance, beside its reference."""

    key: str
    reference: str
    hypothesis: str
    note: str = ""  # as in Answer; or "too-short" or "too-long" to transcribe
    confidence: float = 0.0  # geometric mean of the tokens' probabilities, 0 to 1, to four digits
    alternatives: list[dict[str, Any]] = field(default_factory=list)  # {"text", "score"}, best first, if nbest > 1


@dataclass(frozen=True)
class DecodedBatch:
    """The hypotheses of one batch, and the time it took."""

    rows: list[Hypothesis]
    seconds: float  # of one rank: reading, encoder and search
    audio_seconds: float


@dataclass(frozen=True)
class DecodingPlan:
    """Utterances of an index, by their numbers in it."""

    batches: list[list[int]]  # longest first
    unfit: dict[int, str]  # {utterance: note} of those too short or too long to transcribe


def plan_decoding(
    model: SlamAsr, index: ShardIndex, ids: Sequence[int] | np.ndarray, options: DecodeOptions
) -> DecodingPlan:
    """Batches of the utterances `ids`. UserError for audio without an encoder."""
    chosen = np.asarray(ids, dtype=np.int64)
    frames = index.frames[chosen]
    if index.kind == "audio":
        if model.encoder is None:
            raise UserError(f"{index.root} holds audio, which needs an encoder; load one, or give cached features")
        frames = model.encoder.out_len(index.samples[chosen])
    notes = {int(i): unfit(model, int(frames_of)) for i, frames_of in zip(chosen, frames, strict=True)}
    speech = {int(i): int(model.adapter.out_len(int(n))) for i, n in zip(chosen, frames, strict=True) if not notes[i]}
    fit = list(speech)
    batches = plan_batches(list(speech.values()), options.batch_tokens // options.beams)
    unfit_ids = {i: note for i, note in notes.items() if note}
    return DecodingPlan([[fit[place] for place in batch] for batch in batches], unfit_ids)


def rest_of(plan: DecodingPlan, done: Container[int]) -> DecodingPlan:
    """The plan without the utterances `done`. Batches of which nothing is done stay as they are, and so, to the bit,
    does what is decoded of them."""
    batches = [[i for i in batch if i not in done] for batch in plan.batches]
    return replace(plan, batches=[batch for batch in batches if batch])


def decode_batches(
    model: SlamAsr, index: ShardIndex, plan: DecodingPlan, options: DecodeOptions, turns: Iterable[int] | None = None
) -> Iterator[DecodedBatch]:
    """Decodes the batches whose numbers `turns` yields, until one is past the end; all batches if it is None.
    ShardError for a damaged shard."""
    for turn in count() if turns is None else turns:
        if turn >= len(plan.batches):
            return
        began, ids = time.monotonic(), plan.batches[turn]
        rows = _decode(model, index, ids, options)
        yield DecodedBatch(rows, round(time.monotonic() - began, 4), audio_seconds(index, ids))


def audio_seconds(index: ShardIndex, ids: Sequence[int]) -> float:
    """Total seconds of audio of the utterances `ids`."""
    return round(float(index.samples[np.asarray(ids, dtype=np.int64)].sum()) / SAMPLE_RATE, 4)


def undecoded(index: ShardIndex, plan: DecodingPlan) -> list[Hypothesis]:
    """The rows of utterances that cannot be transcribed."""
    return [Hypothesis(index.key[i], read_meta(index, i)["text"], "", note) for i, note in plan.unfit.items()]


def decode_ids(
    model: SlamAsr,
    index: ShardIndex,
    ids: Sequence[int] | np.ndarray,
    options: DecodeOptions | None = None,
    rank: int = 0,
    world: int = 1,
    progress: Callable[[int], None] | None = None,
) -> list[Hypothesis]:
    """This rank's share of the utterances `ids` of the index, in any order; all of them if `world` is 1.

    `progress` gets the number done after each batch. With `options.synced_gpus` a collective. ShardError for a damaged
    shard, UserError for audio without an encoder."""
    options = options or DecodeOptions()
    plan = plan_decoding(model, index, ids, options)
    hypotheses = undecoded(index, plan) if rank == 0 else []
    for turn in range(0, len(plan.batches), world):
        mine = turn + rank < len(plan.batches)
        decoded = _decode(model, index, plan.batches[turn + rank if mine else -1], options)
        if mine:
            hypotheses += decoded
            if progress is not None:
                progress(len(decoded))
    return hypotheses


def _decode(model: SlamAsr, index: ShardIndex, ids: list[int], options: DecodeOptions) -> list[Hypothesis]:
    batch = read_batch(index, ids, model.prompt)
    rows = zip(batch.keys, batch.texts, transcripts(model, batch, options), strict=True)
    return [_hypothesis(key, text, answer) for key, text, answer in rows]


def _hypothesis(key: str, reference: str, answer: Answer) -> Hypothesis:
    best = [{"text": text, "score": round(score, 4)} for text, score in answer.alternatives]
    return Hypothesis(key, reference, answer.text, answer.note, round(answer.confidence, 4), best)


def write_hypotheses(path: Path, rows: Sequence[Hypothesis], extra: Sequence[dict[str, Any]]) -> None:
    """Writes one JSON object per line: key, reference, hypothesis, note and the fields of `extra`; all lines or
    none."""
    with replacing(path) as file:
        for row, more in zip(rows, extra, strict=True):
            known = {name: value for name, value in asdict(row).items() if value != []}
            file.write(canonical_json(known | more) + b"\n")
