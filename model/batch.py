"""The contract between data and model: one micro-batch, packed.

Shapes use B utterances, N samples, T encoder frames, D encoder width, L target tokens. Nothing is padded: utterances
lie end to end, and `*_cu` are cumulative lengths (`audio[audio_cu[i]:audio_cu[i + 1]]` is utterance i). These stay on
the CPU, so that no shape is ever read back from an accelerator.

Cached frames of eight bits are rows of D + 2 bytes, uint8 [T, D + 2]: the scale of the frame (float16, little-endian),
then D int8 numbers q. The frame is scale * q. The scale is the frame's largest magnitude over 127, rounded up to a
float16, so that the rounding is at most half a scale."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

STEPS = 127  # of eight bits
LARGEST = STEPS * torch.finfo(torch.float16).max  # of the values of a frame in eight bits: 8.3 million
Length = TypeVar("Length", int, np.ndarray, Tensor)
"""A length, or an integer array of lengths; every `out_len` returns what it is given."""


@dataclass(frozen=True)
class Batch:
    """One micro-batch: either audio or cached features, and the target tokens."""

    keys: tuple[str, ...]
    """B utterance keys, for messages and hypotheses."""
    texts: tuple[str, ...]
    """B transcripts as written."""
    audio: Tensor | None
    """float32 [sum N], 16 kHz mono in [-1, 1]; None when features are cached."""
    audio_cu: Tensor
    """int64 [B + 1] on the CPU; all zeros when features are cached."""
    features: Tensor | None
    """[sum T, D] in the cache's dtype, or uint8 [sum T, D + 2] of int8; None when audio is given."""
    feature_cu: Tensor
    """int64 [B + 1] on the CPU; all zeros when audio is given."""
    targets: Tensor
    """int64 [sum L]: each transcript's token ids, ending with EOS."""
    target_cu: Tensor
    """int64 [B + 1] on the CPU."""
    masked_frames: Tensor | None = None
    """bool [sum T]: encoder frames set to zero before the adapter (SpecAugment, arXiv 1904.08779)."""
    masked_dims: Tensor | None = None
    """bool [B, D]: encoder dimensions of an utterance, the same."""
    masked_targets: Tensor | None = None
    """bool [sum L]: target tokens that are fed in as zero; they are predicted all the same (word dropout)."""

    @property
    def num_targets(self) -> int:
        """Target tokens in the batch, EOS included: what the summed loss is divided by, after adding up all ranks."""
        return int(self.target_cu[-1])

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch with its data on `device`; cumulative lengths stay on the CPU."""
        names = ("audio", "features", "targets", "masked_frames", "masked_dims", "masked_targets")
        data = {name: tensor for name in names if (tensor := getattr(self, name)) is not None}
        return replace(self, **{name: tensor.to(device, non_blocking=True) for name, tensor in data.items()})


def pack(
    keys: Sequence[str],
    texts: Sequence[str],
    targets: Sequence[Sequence[int]],
    waves: Sequence[Tensor] | None = None,
    features: Sequence[Tensor] | None = None,
) -> Batch:
    """A Batch from per-utterance lists; give either `waves` (each [N]) or `features` (each [T, D])."""
    assert (waves is None) != (features is None), "a batch holds audio or features, not both"
    return Batch(
        keys=tuple(keys),
        texts=tuple(texts),
        audio=None if waves is None else torch.cat(list(waves)),
        audio_cu=cumulative([len(wave) for wave in waves or [()] * len(keys)]),
        features=None if features is None else torch.cat(list(features)),
        feature_cu=cumulative([len(frames) for frames in features or [()] * len(keys)]),
        targets=torch.tensor([token for ids in targets for token in ids], dtype=torch.int64),
        target_cu=cumulative([len(ids) for ids in targets]),
    )


def with_speech_rolled(batch: Batch) -> Batch:
    """The same texts and targets, each with the speech (and masks) of the next utterance; the last with the first's.
    Audio must come without masked_frames, as the batch does not know how many frames it has."""
    assert batch.audio is None or batch.masked_frames is None, "frames of audio are not counted before it is encoded"
    samples, frames = int(batch.audio_cu[1]), int(batch.feature_cu[1])  # of the first utterance
    firsts = {"audio": samples, "features": frames, "masked_frames": frames, "masked_dims": 1}
    data = {name: tensor for name in firsts if (tensor := getattr(batch, name)) is not None}
    rolled = {name: tensor.roll(-firsts[name], 0) for name, tensor in data.items()}
    rolled |= {name: cumulative(getattr(batch, name).diff().roll(-1)) for name in ("audio_cu", "feature_cu")}
    return replace(batch, **rolled)


def with_empty_answers(batch: Batch, empty: Sequence[bool]) -> Batch:
    """The same batch; of the utterances where `empty` [B] is true, the transcript is empty and EOS the only target."""
    parts = [
        t[-1:] if e else t for t, e in zip(batch.targets.split(batch.target_cu.diff().tolist()), empty, strict=True)
    ]
    return replace(
        batch,
        texts=tuple("" if e else text for text, e in zip(batch.texts, empty, strict=True)),
        targets=torch.cat(parts),
        target_cu=cumulative([len(part) for part in parts]),
    )


def with_frames_masked(frames: Tensor, frame_cu: Tensor, batch: Batch) -> Tensor:
    """frames [sum T, D] of the batch, frame_cu [B + 1] -> the same with the batch's masks set to zero."""
    if batch.masked_frames is not None:
        frames = frames.masked_fill(batch.masked_frames[:, None], 0)
    if batch.masked_dims is not None:
        lengths = frame_cu.diff().to(frames.device, non_blocking=True)
        dims = batch.masked_dims.repeat_interleave(lengths, 0, output_size=len(frames))
        frames = frames.masked_fill(dims, 0)
    return frames


def cumulative(lengths: Sequence[int] | Tensor) -> Tensor:
    """Cumulative lengths, int64 [B + 1], from B lengths."""
    lengths = torch.as_tensor(lengths, dtype=torch.int64)
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def quantise(frames: Tensor) -> Tensor:
    """frames [T, D], within LARGEST -> uint8 [T, D + 2], on the same device."""
    frames = frames.float()
    peak = frames.abs().amax(1, keepdim=True)  # [T, 1]
    scale = (peak / STEPS).half()
    rounded_down = (scale.float() * STEPS < peak).to(torch.int16)
    scale = (scale.view(torch.int16) + rounded_down).view(torch.float16)  # the next float16 above
    whole = (frames / scale.float().where(scale > 0, torch.inf)).round_().clamp_(-STEPS, STEPS).to(torch.int8)
    return torch.cat([scale.view(torch.uint8), whole.view(torch.uint8)], 1)


def dequantise(rows: Tensor) -> Tensor:
    """uint8 [T, D + 2] -> float32 [T, D], on the same device."""
    scale = rows[:, :2].contiguous().view(torch.float16)
    return rows[:, 2:].view(torch.int8).float() * scale.float()
