"""Shards to batches: what training, scoring and feature building read, by utterance number, from any thread."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from data_prep.audio import AudioError, decode
from data_prep.index import ShardIndex
from data_prep.shards import Sample, ShardError, read_sample
from data_prep.utterance import Utterance
from model.batch import Batch, pack
from model.prompt import Prompt

FEATURE_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
EXTENSIONS = {"float16": "f16", "bfloat16": "bf16"}


def read_batch(index: ShardIndex, ids: Sequence[int], prompt: Prompt) -> Batch:
    """Utterances `ids` of the index, in that order, packed. ShardError for bytes that are not what the index says."""
    samples = [read_sample(index, i) for i in ids]
    texts = [sample.meta["text"] for sample in samples]
    keys, targets = [sample.key for sample in samples], [prompt.target_ids(text) for text in texts]
    if index.kind == "features":
        return pack(keys, texts, targets, features=[frames(index, i, s) for i, s in zip(ids, samples, strict=True)])
    return pack(keys, texts, targets, waves=[wave_of(index, i, s) for i, s in zip(ids, samples, strict=True)])


def read_utterance(index: ShardIndex, i: int) -> Utterance:
    """Key, transcript, speaker ... of utterance `i`; its audio names the member, as `shard.tar/key.flac`."""
    sample = read_sample(index, i)
    meta = sample.meta
    extension = "flac" if index.kind == "audio" else EXTENSIONS[index.fingerprint["feature_dtype"]]
    audio = f"{index.path(int(index.shard[i]))}/{sample.key}.{extension}"
    fields = {name: meta[name] for name in ("text", "language", "speaker", "task", "meta")}
    return Utterance(key=sample.key, audio=audio, duration=meta["seconds"], **fields)


def read_wave(index: ShardIndex, i: int) -> Tensor:
    """Float32 [N], 16 kHz, of utterance `i` of an audio index."""
    return wave_of(index, i, read_sample(index, i))


def frames(index: ShardIndex, i: int, sample: Sample) -> Tensor:
    """[T, D] in the cache's dtype, of a feature sample."""
    dtype = FEATURE_DTYPES[index.fingerprint["feature_dtype"]]
    count, width = int(index.frames[i]), int(index.fingerprint["dim"])
    if len(sample.media) != count * width * dtype.itemsize:
        raise ShardError(
            f"utterance {sample.key} has {len(sample.media):,} bytes, the index says {count} frames of {width}; "
            f'run "slam-asr prep check {index.root}"'
        )
    return torch.frombuffer(bytearray(sample.media), dtype=dtype).view(count, width)


def wave_of(index: ShardIndex, i: int, sample: Sample) -> Tensor:
    """Float32 [N], 16 kHz, of an audio sample."""
    try:
        wave = decode(sample.media)
    except AudioError as error:
        raise _undecodable(index, sample.key, str(error)) from None
    if len(wave) != index.samples[i]:
        raise _undecodable(index, sample.key, f"{len(wave):,} samples, the index says {int(index.samples[i]):,}")
    return torch.from_numpy(np.ascontiguousarray(wave))


def _undecodable(index: ShardIndex, key: str, what: str) -> ShardError:
    return ShardError(f'utterance {key}: {what}; run "slam-asr prep check {index.root}"')
