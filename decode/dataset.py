"""Decode utterances of a shard directory, audio or cached features.

1. The batches are a pure function of the utterances' lengths: longest first, rows x longest within a budget, so that
   little is padding and a budget too large for the memory fails at once.
2. Rank r of R decodes batches r, r + R ...; the last round is filled up by decoding the cheapest batch again, so that
   all ranks decode equally often, as ZeRO-3 needs. The hypotheses do not depend on R.
3. Utterances that are too short or too long to transcribe are not skipped: they get an empty hypothesis, and a note
   that says why.
"""

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
from decode.generate import transcripts, unfit
from model.errors import UserError
from model.slam_asr import SlamAsr


@dataclass(frozen=True)
class DecodeOptions:
    """How to search, and how much at a time."""

    beams: int = 1
    """Hypotheses kept; 1 is greedy search."""
    max_new_tokens: int | None = None
    """LLM tokens an answer; None bounds each by its utterance's length."""
    batch_tokens: int = 2000
    """Speech embeddings of a batch times beams, padding counted: bounds memory, does not change results. At the usual
    10 a second 200 s of speech, whose keys and values take 0.2 GB in a 1B LLM, 4 GB in a 7B one."""
    synced_gpus: bool = False
    """True under ZeRO-3 on several ranks: decoding is then a collective."""


@dataclass(frozen=True)
class Hypothesis:
    """The transcript of one utterance, beside its reference."""

    key: str
    reference: str
    hypothesis: str
    note: str = ""
    """ "" for an answer that the model ended; "cut" by the bound on tokens; "too-short" or "too-long" to transcribe."""


def decode_ids(
    model: SlamAsr,
    index: ShardIndex,
    ids: Sequence[int] | np.ndarray,
    options: DecodeOptions | None = None,
    rank: int = 0,
    world: int = 1,
    progress: Callable[[int], None] | None = None,
) -> list[Hypothesis]:
    """This rank's share of the utterances `ids` of the index, in no promised order; all of them where `world` is 1.

    `progress` is told how many are done, batch after batch. With `options.synced_gpus` a collective.

    Raises ShardError for a damaged shard.
    """
    options = options or DecodeOptions()
    frames = frame_counts(model, index, ids)
    notes = [unfit(model, int(count)) for count in frames]
    fit = [i for i, note in enumerate(notes) if note is None]
    speech = [int(model.adapter.out_len(int(frames[i]))) for i in fit]
    planned = plan_batches(speech, options.batch_tokens // options.beams)
    batches = [[int(ids[fit[i]]) for i in batch] for batch in planned]
    hypotheses = _without_answer(index, ids, notes) if rank == 0 else []
    for turn in range(0, len(batches), world):
        mine = turn + rank < len(batches)
        result = _decode(model, index, batches[turn + rank if mine else -1], options)
        hypotheses += result if mine else []
        if progress is not None and mine:
            progress(len(result))
    return hypotheses


def frame_counts(model: SlamAsr, index: ShardIndex, ids: Sequence[int] | np.ndarray) -> np.ndarray:
    """Encoder frames of each utterance, as the index knows them. UserError if audio meets a model without encoder."""
    chosen = np.asarray(ids, dtype=np.int64)
    if index.kind == "features":
        return index.frames[chosen]
    if model.encoder is None:
        raise UserError(f"{index.root} holds audio, which needs an encoder; load one, or give cached features")
    return model.encoder.out_len(index.samples[chosen])


def plan_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Positions in `lengths`, longest first, in batches of rows x longest <= budget (or one row)."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    for i in order:
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def decode_dataset(
    model: SlamAsr, index: ShardIndex, options: DecodeOptions | None = None, label: str = "decode"
) -> tuple[list[Hypothesis], list[dict[str, Any]]]:
    """Every utterance of the directory in its order, with its metadata (speaker, language, task, meta ...)."""
    if len(index) == 0:
        raise UserError(f"{index.root} holds no utterances; there is nothing to decode")
    with Progress(len(index), label=label) as progress:
        hypotheses = decode_ids(model, index, range(len(index)), options, progress=progress.advance)
    by_key = {one.key: one for one in hypotheses}
    return [by_key[key] for key in index.key], read_metadata(index)


def read_metadata(index: ShardIndex) -> list[dict[str, Any]]:
    """Of every utterance: text, speaker, language, task, meta ...; audio and features are not read."""
    return [read_meta(index, i) for i in range(len(index))]


def write_hypotheses(path: Path, rows: Sequence[Hypothesis], extra: Sequence[dict[str, Any]]) -> None:
    """One JSON object a line: key, reference, hypothesis, note and what `extra` adds; whole or not at all."""
    with replacing(path) as file:
        for row, more in zip(rows, extra, strict=True):
            file.write(canonical_json(asdict(row) | more) + b"\n")


def _decode(model: SlamAsr, index: ShardIndex, ids: list[int], options: DecodeOptions) -> list[Hypothesis]:
    batch = read_batch(index, ids, model.prompt)
    answers = transcripts(model, batch, options.beams, options.max_new_tokens, options.synced_gpus)
    rows = zip(batch.keys, batch.texts, answers, strict=True)
    return [Hypothesis(key, text, one.text, "cut" if one.cut else "") for key, text, one in rows]


def _without_answer(
    index: ShardIndex, ids: Sequence[int] | np.ndarray, notes: Sequence[str | None]
) -> list[Hypothesis]:
    chosen = [(int(i), note) for i, note in zip(ids, notes, strict=True) if note is not None]
    return [Hypothesis(index.key[i], read_meta(index, i)["text"], "", note) for i, note in chosen]
