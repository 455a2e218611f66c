"""Decodes the utterances of a shard directory, audio or cached features.

1. Batches follow from the utterances' lengths: longest first, rows x longest within a budget, so that there is little
   padding and a budget too large for the memory fails at once.
2. Rank r of R decodes batches r, r + R ...; the last round is filled up with the cheapest batch again, so that all
   ranks decode equally often, as ZeRO-3 needs. The hypotheses do not depend on R.
3. Utterances too short or too long to transcribe get an empty hypothesis and a note that says why."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.durable import canonical_json, replacing
from data_prep.progress import Progress
from data_prep.shards.index import ShardIndex
from data_prep.shards.reader import read_batch
from data_prep.shards.tar import read_meta
from decode.generate import DecodeOptions, transcripts, unfit
from model.errors import UserError
from model.slam_asr import SlamAsr


@dataclass(frozen=True)
class Hypothesis:
    """The transcript of one utterance, beside its reference."""

    key: str
    reference: str
    hypothesis: str
    note: str = ""  # as Answer's; or "too-short" or "too-long" to transcribe
    confidence: float = 0.0  # geometric mean of the tokens' probabilities, 0 to 1


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
    options, chosen = options or DecodeOptions(), np.asarray(ids, dtype=np.int64)
    frames = index.frames[chosen]
    if index.kind == "audio":
        if model.encoder is None:
            raise UserError(f"{index.root} holds audio, which needs an encoder; load one, or give cached features")
        frames = model.encoder.out_len(index.samples[chosen])
    notes = {int(i): unfit(model, int(count)) for i, count in zip(chosen, frames, strict=True)}
    speech = {int(i): int(model.adapter.out_len(int(n))) for i, n in zip(chosen, frames, strict=True) if not notes[i]}
    batches = plan_batches(list(speech.values()), options.batch_tokens // options.beams)
    fit, hypotheses = list(speech), list[Hypothesis]()
    if rank == 0:
        unanswered = [(i, note) for i, note in notes.items() if note]
        hypotheses = [Hypothesis(index.key[i], read_meta(index, i)["text"], "", note) for i, note in unanswered]
    for turn in range(0, len(batches), world):
        mine = turn + rank < len(batches)
        batch = batches[turn + rank if mine else -1]
        decoded = _decode(model, index, [fit[place] for place in batch], options)
        if mine:
            hypotheses += decoded
            if progress is not None:
                progress(len(decoded))
    return hypotheses


def _decode(model: SlamAsr, index: ShardIndex, ids: list[int], options: DecodeOptions) -> list[Hypothesis]:
    batch = read_batch(index, ids, model.prompt)
    rows = zip(batch.keys, batch.texts, transcripts(model, batch, options), strict=True)
    return [Hypothesis(key, text, answer.text, answer.note, answer.confidence) for key, text, answer in rows]


def plan_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Positions in `lengths`, longest first, in batches of rows x longest <= budget (or one row)."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def decode_dataset(
    model: SlamAsr, index: ShardIndex, options: DecodeOptions | None = None, label: str = "decode"
) -> list[Hypothesis]:
    """Every utterance of the directory in its order, behind a progress bar; UserError if there is none."""
    if len(index) == 0:
        raise UserError(f"{index.root} holds no utterances; there is nothing to decode")
    with Progress(len(index), label=label) as progress:
        hypotheses = decode_ids(model, index, range(len(index)), options, progress=progress.advance)
    by_key = {hypothesis.key: hypothesis for hypothesis in hypotheses}
    return [by_key[key] for key in index.key]


def write_hypotheses(path: Path, rows: Sequence[Hypothesis], extra: Sequence[dict[str, Any]]) -> None:
    """One JSON object a line: key, reference, hypothesis, note and what `extra` adds; whole or not at all."""
    with replacing(path) as file:
        for row, more in zip(rows, extra, strict=True):
            file.write(canonical_json(asdict(row) | more) + b"\n")
