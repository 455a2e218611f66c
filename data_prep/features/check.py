"""A feature cache held against the audio and the encoder that it is said to come from.

All utterances by their columns (`check_features`); some, drawn by a seed, by encoding them again (`compare`). The bytes
themselves are what `prep check` reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_prep.features.encoding import device_of, encode_in_order, grouped
from data_prep.figures import counted
from data_prep.rework.joined import audio_crcs
from data_prep.shards.frames import as_frames, as_numbers
from data_prep.shards.index import ShardIndex
from data_prep.shards.reader import frames
from data_prep.shards.tar import read_sample
from model.encoders import Encoder
from model.errors import UserError

SEED = 0
NAMED = 5  # utterances that a line names
TOLERANCE = {"float32": 1e-2, "float16": 2e-2, "bfloat16": 1e-1}
"""On a GPU, by what the encoder computes in: how far a frame may be from the encoder's now, as a share of its length
(2-norm). Kernels and the utterances computed beside it change its rounding. On a CPU it is the same to the bit."""
INT8_TOLERANCE = 5e-2
"""On top where frames are kept as int8: a step up or down where the rounding fell the other way."""


def check_features(audio: ShardIndex, cache: ShardIndex, encoder: Encoder, sample: int) -> list[str]:
    """One line for each kind of thing wrong with `cache`, none if all is well: another encoder; utterances that are
    missing, too many, of another number of frames or samples, or of other audio; of `sample` drawn ones those that
    cannot be read or have other frames."""
    other_encoder = _other_encoder(cache, encoder)
    problems = [*other_encoder]
    place = {key: j for j, key in enumerate(cache.key)}
    both = [(i, place[key]) for i, key in enumerate(audio.key) if key in place]
    mine, theirs = np.array([i for i, _ in both], int), np.array([j for _, j in both], int)
    problems += _named("missing in the cache", sorted(set(audio.key) - set(place)))
    problems += _named("in the cache and not in the audio", sorted(set(place) - set(audio.key)))
    wrong = {
        "of another number of samples than the audio": cache.samples[theirs] != audio.samples[mine],
        "of another number of frames than the encoder gives": cache.frames[theirs]
        != encoder.out_len(audio.samples[mine]),
        "made of other audio or of another transcript": _of_other_audio(audio, cache, mine, theirs),
    }
    for what, bad in wrong.items():
        problems += _named(what, [audio.key[i] for i in mine[bad]])
    if not other_encoder:
        good = ~np.any(list(wrong.values()), axis=0)
        problems += compare(audio, cache, encoder, draw(mine[good], sample))
    return problems


def draw(ids: np.ndarray, count: int) -> list[int]:
    """`count` of `ids`, the same ones each time, in order."""
    chosen = np.random.default_rng(SEED).choice(ids, min(count, len(ids)), replace=False)
    return sorted(chosen.tolist())


def compare(audio: ShardIndex, cache: ShardIndex, encoder: Encoder, ids: Sequence[int]) -> list[str]:
    """Utterances `ids` of the audio encoded again: a line for each whose frames in the cache are others."""
    place = {key: j for j, key in enumerate(cache.key)}
    dtype, problems = cache.fingerprint["feature_dtype"], []
    groups = grouped(audio, ids, device_of(encoder))
    for _, encoded in encode_in_order(audio, encoder, dtype, groups):
        for one in encoded:
            j = place[audio.key[one.id]]
            try:
                sample = read_sample(cache, j)
                found = frames(cache, j, sample)
            except UserError as error:
                problems.append(str(error).split("; run ")[0])
                continue
            now = as_frames(cache.fingerprint, np.frombuffer(bytearray(one.media), np.uint8))
            problems += _difference(cache, j, found, now, device_of(encoder))
    return problems


def _difference(cache: ShardIndex, j: int, found: Tensor, now: Tensor, device: torch.device) -> list[str]:
    """A line if the frames differ by more than rounding."""
    name = f"{cache.shards[int(cache.shard[j])].name}, utterance {cache.key[j]}"
    if found.shape != now.shape:
        return [f"{name}: {counted(len(found), 'frame')}, the encoder gives {len(now):,}"]
    if torch.equal(found.view(torch.uint8), now.view(torch.uint8)):
        return []
    theirs, ours = as_numbers(found), as_numbers(now)
    apart = (theirs - ours).norm(dim=1) / ours.norm(dim=1).clamp_min(1e-6)  # [T]
    worst = int(torch.nan_to_num(apart, nan=torch.inf).argmax())
    allowed = tolerance(cache.fingerprint, device)
    if bool((apart <= allowed).all()):
        return []
    return [f"{name}: frame {worst} is {float(apart[worst]):.2g} of its length away from the encoder's own"]


def tolerance(fingerprint: dict[str, Any], device: torch.device) -> float:
    """How far, as a share of its length, a frame of such a cache may be from the same encoder's on `device`."""
    if device.type == "cpu":
        return 0.0
    return TOLERANCE[fingerprint["dtype"]] + INT8_TOLERANCE * (fingerprint["feature_dtype"] == "int8")


def _other_encoder(cache: ShardIndex, encoder: Encoder) -> list[str]:
    return [
        f"its encoder's {name} is {str(cache.fingerprint.get(name))[:20]}, that of the encoder given {str(value)[:20]}"
        for name, value in encoder.fingerprint().items()
        if cache.fingerprint.get(name) != value
    ]


def _of_other_audio(audio: ShardIndex, cache: ShardIndex, mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """bool, of each pair, by the CRC that the shard keeps of its audio; those of `merge --prefix-keys` keep none."""
    kept = audio_crcs([cache])
    return np.array([kept[j] not in (None, int(audio.crc32[i])) for i, j in zip(mine, theirs, strict=True)], bool)


def _named(what: str, keys: list[str]) -> list[str]:
    """A line with the number and the first names, or none."""
    rest = " ..." if len(keys) > NAMED else ""
    return [f"{counted(len(keys), 'utterance')} {what}: {', '.join(keys[:NAMED])}{rest}"] if keys else []
