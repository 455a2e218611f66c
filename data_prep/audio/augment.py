"""Augmentation of training samples: speed, noise, SpecAugment, sounds without speech. All is off unless asked for.

The same sample in the same epoch with the same seed is changed in the same way, bit for bit, whatever rank or thread
reads it and whatever is read beside it: the randomness of each purpose is drawn anew from (seed, epoch, sample number,
purpose). The speeds of a whole epoch are known before anything is read, as the plan needs the lengths."""

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import numpy as np
from pydantic import BaseModel, Field, model_validator

from data_prep.audio.decode import EXTENSIONS, MIN_SAMPLES, SAMPLE_RATE, AudioError, decode, probe, resample
from data_prep.audio.wordless import KINDS, coloured, levelled
from data_prep.paths import LocalPath, one_or_more
from model.errors import UserError

if TYPE_CHECKING:  # torch takes seconds to import, and recipes are read without it
    from torch import Tensor

SPEED, NOISE, TIME_MASK, FEATURE_MASK, SILENCE, TEXT_MASK = range(6)  # purposes; a new one goes to the end
SHORTEST_NOISE_SECONDS = 0.1
FRAMES_PER_SECOND = 50.0  # of the encoder; Moonshine has 41.7, so its time masks are 20 % longer
TAIL_SAMPLES = 256  # of silence behind a wave that is resampled, so that there is always enough to cut to length

Ids = Sequence[int] | np.ndarray
Speed = Annotated[float, Field(ge=0.5, le=2)]
Ratio = Annotated[float, Field(ge=0, le=1)]
Spans = Annotated[int, Field(ge=0, le=1000)]
Decibels = Annotated[float, Field(ge=-100, le=100)]


class AugmentConfig(
    BaseModel, strict=True, frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
):
    """How training samples are varied from epoch to epoch. Nothing is, unless it is asked for here."""

    speed: Annotated[tuple[Speed, ...], one_or_more(Speed)] = ()
    """Speeds that utterances are played at, each as often as the others, e.g. [0.9, 1.0, 1.1]; pitch changes with it.
    From 0.5 to 2 in hundredths; empty = as recorded. Needs audio (Ko et al. 2015)."""
    noise_share: Ratio = 0.0
    """Share of utterances that noise is added to, from 0 to 1. Needs audio."""
    noise_snr_db: tuple[Decibels, Decibels] = (5.0, 30.0)
    """Lowest and highest signal-to-noise ratio, in dB of mean power over the utterance; drawn evenly between."""
    noise_dir: LocalPath | None = None
    """Folder with recordings of noise (e.g. MUSAN's noise and music), each as likely as the others; null = made noise
    with a spectrum of power 1/f^a, a drawn from 0 (white) to 2 (brown)."""
    silence_share: Ratio = 0.0
    """Share of utterances that are replaced by a sound of the same length in which nothing is said, and whose answer is
    then empty, from 0 to 1: silence, noise (as of `noise_dir`), a tone, music or clicks, each in a fifth of them. Needs
    audio."""
    time_masks: Spans = 0
    """Spans of encoder frames masked in each utterance (SpecAugment, arXiv 1904.08779); 0 = none."""
    time_mask_seconds: Annotated[float, Field(gt=0)] = 0.4
    """Longest span; the length is drawn evenly from 0 to this."""
    time_mask_share: Ratio = 0.2
    """Most that all spans together mask of an utterance, from 0 to 1."""
    feature_masks: Spans = 0
    """Spans of encoder dimensions masked in each utterance; 0 = none."""
    feature_mask_share: Ratio = 0.05
    """Widest span as a share of the dimensions, from 0 to 1; the width is drawn evenly from 0 to this."""
    text_mask_share: Ratio = 0.0
    """Share of the transcript's tokens that the LLM does not see when it predicts the tokens after them, from 0 to 1
    (word dropout, arXiv 1511.06349): it then has to rely on the audio more, and on likely words less."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if uneven := [speed for speed in self.speed if abs(100 * speed - round(100 * speed)) >= 1e-9]:
            raise UserError(f"augment.speed has {uneven[0]}, expected numbers with at most two decimals")
        low, high = self.noise_snr_db
        if low > high:
            raise UserError(f"augment.noise_snr_db is {[low, high]}, expected the lower first")
        return self

    @property
    def needs_audio(self) -> bool:
        """Whether recordings are changed, which cached features do not allow."""
        return any(speed != 1 for speed in self.speed) or self.noise_share > 0 or self.silence_share > 0

    @property
    def active(self) -> bool:
        """Whether anything is changed at all."""
        return self.needs_audio or self.time_masks > 0 or self.feature_masks > 0 or self.text_mask_share > 0


def check_noise(config: AugmentConfig) -> int:
    """Opens augment.noise_dir; the number of recordings in it, 0 where no noise or made noise is asked for. UserError
    if there is none, or one that cannot be used. To be called once, before training."""
    if config.noise_dir is None or not (config.noise_share or config.silence_share):
        return 0
    return len(noise_files(config.noise_dir))


def speed_factors(config: AugmentConfig, seed: int, epoch: int, ids: Ids) -> np.ndarray:
    """float64 [N], the speed of each sample in an epoch; 1 where no speeds are given."""
    if not config.speed:
        return np.ones(len(ids))
    (key,) = np.random.SeedSequence([seed, epoch, SPEED]).generate_state(1, np.uint64)
    # SplitMix64 (Steele et al. 2014), started at `key`: its numbers at these places.
    words = key + (np.asarray(ids).astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return np.array(config.speed, np.float64)[(words % np.uint64(len(config.speed))).astype(np.int64)]


def samples_after(samples: int | np.ndarray, factors: float | np.ndarray) -> np.ndarray:
    """int64, the samples that are left of so many samples at these speeds: rounded up, exact."""
    hundredths = np.rint(np.asarray(factors) * 100).astype(np.int64)
    return -(-np.asarray(samples, np.int64) * 100 // hundredths)


def augment_wave(wave: "Tensor", config: AugmentConfig, seed: int, epoch: int, sample: int) -> "Tensor":
    """Float32 [N] at 16 kHz to float32 [M], M = samples_after(N, its speed): played at its speed, then noise added; or,
    if `without_speech`, another sound of that length. Where noise goes beyond full scale, the whole is made quieter;
    nothing is clipped. Silence gets no noise. UserError for a noise recording that cannot be read."""
    import torch

    if not config.needs_audio:
        return wave
    samples = wave.numpy()
    speed = float(speed_factors(config, seed, epoch, [sample])[0])
    if without_speech(config, seed, epoch, sample):
        rng = _generator(seed, epoch, sample, SILENCE)
        return torch.from_numpy(_wordless(int(samples_after(len(samples), speed)), config, rng))
    changed = samples
    if speed != 1:  # resampled, as if it had been recorded at that many times the rate
        longer = resample(np.pad(samples, (0, TAIL_SAMPLES)), round(100 * speed), 100)
        changed = longer[: int(samples_after(len(samples), speed))]
    changed = _with_noise(changed, config, _generator(seed, epoch, sample, NOISE))
    if changed is samples:
        return wave
    changed /= max(1.0, float(np.abs(changed).max(initial=0)))
    return torch.from_numpy(changed)


def without_speech(config: AugmentConfig, seed: int, epoch: int, sample: int) -> bool:
    """Whether the sample is replaced by a sound without speech in this epoch (silence_share)."""
    share = config.silence_share
    return share > 0 and share > _generator(seed, epoch, sample, SILENCE).random()


def spec_masks(
    config: AugmentConfig, seed: int, epoch: int, ids: Ids, frames: "Ids | Tensor", dim: int
) -> "tuple[Tensor | None, Tensor | None]":
    """What SpecAugment masks (True) of B utterances with `frames` [B] encoder frames, as they are after augment_wave.
    Bool [sum T] of the frames, end to end, and bool [B, D] of the dimensions; None for what is not asked for."""
    import torch

    times = dims = None
    if config.time_masks:
        widest, share = _floor(config.time_mask_seconds * FRAMES_PER_SECOND), config.time_mask_share
        parts = [np.zeros(0, bool)]
        for i, count in zip(ids, map(int, frames), strict=True):
            rng = _generator(seed, epoch, int(i), TIME_MASK)
            parts.append(_spans(count, config.time_masks, widest, _floor(share * count), rng))
        times = torch.from_numpy(np.concatenate(parts))
    if config.feature_masks:
        dims, widest = torch.zeros(len(ids), dim, dtype=torch.bool), _floor(config.feature_mask_share * dim)
        for row, i in zip(dims, ids, strict=True):
            rng = _generator(seed, epoch, int(i), FEATURE_MASK)
            row[:] = torch.from_numpy(_spans(dim, config.feature_masks, widest, dim, rng))
    return times, dims


def text_masks(config: AugmentConfig, seed: int, epoch: int, ids: Ids, tokens: "Ids | Tensor") -> "Tensor | None":
    """Bool [sum L]: the target tokens that the LLM does not see, of B utterances with `tokens` [B] target tokens; None
    if none are to be masked."""
    import torch

    if not config.text_mask_share:
        return None
    drawn = [
        _generator(seed, epoch, int(i), TEXT_MASK).random(int(count)) for i, count in zip(ids, tokens, strict=True)
    ]
    return torch.from_numpy(np.concatenate([np.zeros(0), *drawn]) < config.text_mask_share)


@lru_cache(maxsize=4)
def noise_files(folder: str) -> tuple[tuple[Path, float], ...]:
    """(recording, seconds) of every audio file below a folder, in order of name; read once a process. UserError where
    there is none, or one that cannot be used."""
    root = Path(folder)
    paths = [p for p in root.rglob("*") if p.suffix[1:].lower() in EXTENSIONS and p.name[0] != "." and p.is_file()]
    if not paths:
        what = "holds no audio file" if root.is_dir() else "is not a folder"
        raise UserError(f"augment.noise_dir {folder} {what}; give a folder with recordings of noise, or null")
    files = []
    for path in sorted(paths, key=lambda path: path.relative_to(root).as_posix()):
        try:
            seconds = probe(path).seconds
            if seconds < SHORTEST_NOISE_SECONDS:
                raise AudioError("too-short", f"{seconds:.3f} s, at least {SHORTEST_NOISE_SECONDS} s are needed")
        except (AudioError, OSError) as error:
            raise _unusable(path, error) from None
        files.append((path, seconds))
    return tuple(files)


def _unusable(path: Path, why: object) -> UserError:
    return UserError(f"noise recording {path}: {why}; mend it or take it out of augment.noise_dir")


def _generator(seed: int, epoch: int, sample: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed, epoch, sample, purpose])


def _floor(number: float) -> int:
    return math.floor(number + 1e-9)  # 0.29 x 100 is 29


def _with_noise(wave: np.ndarray, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """The wave itself, or a new one with noise in it."""
    if rng.random() >= config.noise_share:
        return wave
    snr_db = rng.uniform(*config.noise_snr_db)
    noise = _recorded(len(wave), config.noise_dir, rng) if config.noise_dir else coloured(len(wave), rng)
    power, noise_power = (float(np.square(samples, dtype=np.float64).mean()) for samples in (wave, noise))
    if power == 0 or noise_power == 0:
        return wave
    gain = math.sqrt(power / noise_power / 10 ** (snr_db / 10))
    return wave + np.float32(gain) * noise


def _wordless(count: int, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """Float32 [count]; `rng` as it was for `without_speech`."""
    rng.random()
    kind = list(KINDS)[rng.integers(len(KINDS))]
    if kind == "noise" and config.noise_dir is not None:
        return levelled(_recorded(count, config.noise_dir, rng), rng)
    return KINDS[kind](count, rng)


def _recorded(count: int, folder: str, rng: np.random.Generator) -> np.ndarray:
    """Float32 [count] from a random place of a random recording, which is repeated if it is too short."""
    files = noise_files(folder)
    path, seconds = files[rng.integers(len(files))]
    place = rng.random()
    needed = max(count, 2 * MIN_SAMPLES) / SAMPLE_RATE
    try:
        if seconds > needed:
            noise = decode(path, place * (seconds - needed), needed)
        else:
            noise = decode(path)
            noise = np.roll(noise, int(place * len(noise)))
    except (AudioError, OSError) as error:
        raise _unusable(path, error) from None
    return np.resize(noise, count)


def _spans(length: int, count: int, widest: int, budget: int, rng: np.random.Generator) -> np.ndarray:
    """Bool [length] with `count` spans of 0 to `widest` set, of all together no more than `budget`."""
    mask = np.zeros(length, bool)
    for _ in range(count):
        width = min(int(rng.integers(widest + 1)), budget)
        start = int(rng.integers(length - width + 1))
        mask[start : start + width] = True
        budget -= width
    return mask
