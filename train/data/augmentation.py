"""Applies the `augment` section of a recipe to the batches of training.

The same sample in the same epoch is changed in the same way, on whatever rank and in whatever micro-batch it is read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from data_prep.audio.augment import (
    AugmentConfig,
    augment_wave,
    check_noise,
    samples_after,
    spec_masks,
    speed_factors,
    text_masks,
    without_speech,
)
from model.batch import Batch, cumulative, with_empty_answers
from model.errors import UserError
from model.slam_asr import SlamAsr


@dataclass(frozen=True)
class Augmentation:
    """The options, the seed, and the encoder's lengths."""

    config: AugmentConfig
    seed: int
    frames: Callable[[Any], Any]  # encoder frames of so many samples
    dim: int  # D, the encoder's width
    layers: int  # encoder layers that are concatenated in a frame

    def samples(self, samples: np.ndarray, epoch: int) -> np.ndarray:
        """int64 [N], the samples that the N recordings of the corpus have in an epoch."""
        return samples_after(samples, speed_factors(self.config, self.seed, epoch, np.arange(len(samples))))

    def extremes(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64 [N] each, the fewest and the most that they have in any epoch."""
        speeds = self.config.speed or (1.0,)
        return samples_after(samples, max(speeds)), samples_after(samples, min(speeds))

    def apply(self, batch: Batch, epoch: int, ids: Sequence[int] | np.ndarray) -> Batch:
        """The batch of the samples `ids` with changed speed, noise, sounds without speech, masked frames and masked
        tokens."""
        ids = np.asarray(ids, np.int64)
        if batch.audio is not None and self.config.needs_audio:
            waves = batch.audio.split(batch.audio_cu.diff().tolist())
            changed = [augment_wave(w, self.config, self.seed, epoch, int(i)) for w, i in zip(waves, ids, strict=True)]
            batch = replace(batch, audio=torch.cat(changed), audio_cu=cumulative([len(wave) for wave in changed]))
            empty = [without_speech(self.config, self.seed, epoch, int(i)) for i in ids]
            batch = with_empty_answers(batch, empty) if any(empty) else batch
        frames = batch.feature_cu.diff() if batch.audio is None else self.frames(batch.audio_cu.diff())
        masked_frames, masked_dims = spec_masks(self.config, self.seed, epoch, ids, frames.numpy(), self.dim)
        if masked_dims is not None:
            masked_dims = masked_dims.repeat(1, self.layers)  # the same dimensions of each
        masked_targets = text_masks(self.config, self.seed, epoch, ids, batch.target_cu.diff())
        return replace(batch, masked_frames=masked_frames, masked_dims=masked_dims, masked_targets=masked_targets)


def open_augmentation(config: AugmentConfig, kind: str, seed: int, model: SlamAsr) -> Augmentation | None:
    """The augmentation of shards of a `kind`; None if nothing is asked for. UserError for cached features where audio
    is needed, and for noise that cannot be used."""
    if config.silence_share and kind == "features":
        raise UserError(
            f"augment.silence_share is {config.silence_share:g}, which cached features cannot follow; leave it out and "
            "put sounds without speech into data.train: slam-asr prep synth DIR --split silence, then prep build "
            "--allow-empty and prep features"
        )
    if config.needs_audio and kind == "features":
        raise UserError(
            "augment changes speed or adds noise, which cached features cannot follow; give data.train audio shards, "
            "or leave augment.speed and augment.noise_share out"
        )
    check_noise(config)
    if not config.active:
        return None
    frames, spec = model.encoder.out_len if model.encoder else len, model.adapter.spec
    return Augmentation(config, seed, frames, spec.encoder_dim, spec.weighted_layers)
