"""A feature cache compared with its audio and encoder.

All utterances by their columns (`check_features`); some, drawn by a seed, by encoding them again (`compare`). The bytes
themselves are read by `prep check`."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from data_prep.features.encoding import device_of, encode_in_order
from data_prep.rework.joined import audio_crcs
from data_prep.shards.frames import as_frames, as_numbers
from data_prep.shards.index import ShardIndex
from data_prep.shards.reader import frames
from data_prep.shards.tar import read_sample
from model.encoders import Encoder
from model.errors import UserError, counted

SEED = 0
NAMED = 5  # utterances that a line names
TOLERANCE = {"float32": 1e-2, "float16": 2e-2, "bfloat16": 1e-1}
"""On a GPU, by the encoder's dtype: how far a frame may be from the encoder's now, as a share of its length (2-norm).
Kernels and the utterances computed beside it change its rounding. On a CPU it is the same to the bit."""
INT8_TOLERANCE = 5e-2
"""Added where frames are kept as int8: a step up or down where the rounding fell the other way."""


def check_features(audio: ShardIndex, cache: ShardIndex, encoder: Encoder, sample: int) -> list[str]:
    """One line for each kind of fault of `cache`: another encoder; utterances missing, too many, of another number of
    frames or samples, or of other audio; of `sample` drawn ones those that cannot be read or have other frames."""
    other_encoder = [
        f"its encoder's {name} is {str(cache.fingerprint.get(name))[:20]}, that of the encoder given {str(value)[:20]}"
        for name, value in encoder.fingerprint().items()
        if cache.fingerprint.get(name) != value
    ]
    number = {key: j for j, key in enumerate(cache.key)}
    mine = np.array([i for i, key in enumerate(audio.key) if key in number], int)
    theirs = np.array([number[audio.key[i]] for i in mine], int)
    crcs = audio_crcs([cache])  # None in those of `merge --prefix-keys`
    wrong = {
        "of another number of samples than the audio": cache.samples[theirs] != audio.samples[mine],
        "of another number of frames than the encoder gives": cache.frames[theirs]
        != encoder.out_len(audio.samples[mine]),
        "made of other audio or of another transcript": np.array(
            [crcs[j] not in (None, int(audio.crc32[i])) for i, j in zip(mine, theirs, strict=True)], bool
        ),
    }
    faulty = {
        "missing in the cache": sorted(set(audio.key) - set(number)),
        "in the cache and not in the audio": sorted(set(number) - set(audio.key)),
        **{fault: [audio.key[i] for i in mine[bad]] for fault, bad in wrong.items()},
    }
    problems = other_encoder + [
        f"{counted(len(keys), 'utterance')} {fault}: {', '.join(keys[:NAMED])}{' ...' if len(keys) > NAMED else ''}"
        for fault, keys in faulty.items()
        if keys
    ]
    if not other_encoder:
        problems += compare(audio, cache, encoder, draw(mine[~np.any(list(wrong.values()), axis=0)], sample))
    return problems


def draw(ids: np.ndarray, count: int) -> list[int]:
    """`count` of `ids`, the same ones each time, in order."""
    chosen = np.random.default_rng(SEED).choice(ids, min(count, len(ids)), replace=False)
    return sorted(chosen.tolist())


def compare(audio: ShardIndex, cache: ShardIndex, encoder: Encoder, ids: Sequence[int]) -> list[str]:
    """Utterances `ids` of the audio encoded again: a line for each with other frames in the cache."""
    number, made = {key: j for j, key in enumerate(cache.key)}, cache.fingerprint
    problems, allowed = [], 0.0
    if device_of(encoder).type != "cpu":
        allowed = TOLERANCE[made["dtype"]] + INT8_TOLERANCE * (made["feature_dtype"] == "int8")
    for encoded in encode_in_order(audio, encoder, made["feature_dtype"], ids):
        j = number[audio.key[encoded.id]]
        try:
            cached = frames(cache, j, read_sample(cache, j))
        except UserError as error:
            problems.append(str(error).split("; run ")[0])
            continue
        now = as_frames(made, np.frombuffer(bytearray(encoded.media), np.uint8))
        difference = _difference(cached, now, allowed)
        if difference:
            problems.append(f"{cache.shards[int(cache.shard[j])].name}, utterance {cache.key[j]}: {difference}")
    return problems


def _difference(cached: Tensor, now: Tensor, tolerance: float) -> str:
    """In words; empty where the frames differ by no more than rounding."""
    if cached.shape != now.shape:
        return f"{counted(len(cached), 'frame')}, the encoder gives {len(now):,}"
    if torch.equal(cached.view(torch.uint8), now.view(torch.uint8)):
        return ""
    theirs, ours = as_numbers(cached), as_numbers(now)
    apart = (theirs - ours).norm(dim=1) / ours.norm(dim=1).clamp_min(1e-6)  # [T]
    worst = int(torch.nan_to_num(apart, nan=torch.inf).argmax())
    if bool((apart <= tolerance).all()):
        return ""
    return f"frame {worst} is {float(apart[worst]):.2g} of its length away from the encoder's own"
