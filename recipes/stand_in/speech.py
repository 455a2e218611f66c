"""The speech the tiny HuBERT learns from: spoken once into the work folder, drawn from there in augmented batches.

Every utterance is kept with the phonemes espeak-ng said and when, so the units of HuBERT's masked prediction, which
a real corpus has to find by clustering, are known here.

Shapes: B utterances of a batch, T frames of 20 ms.
"""

import json
import os
import random
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data_prep.synth import corpus
from model.sample_rate import SAMPLE_RATE
from recipes.stand_in.augment import augment

HOP, WINDOW = 320, 400  # samples: a frame each 20 ms, from 25 ms of sound
BATCH, POOL = 8, 64  # utterances in a batch; batches drawn together and cut from their row sorted by length
RANDOM_SHARE = 0.3
PHONEMES = tuple(
    "_ 0 3 3: @ @L A: A@ D E I N O2 O: O@ OI S T U U@ V Z a aI aI@ aU b d dZ e@ eI f g h i i: i@ j k l m n o@ oU "
    "p r s t tS u: v w z".split()
)
"""Espeak's phonemes after `unit`; any other counts as the vowel or consonant it begins with."""


@dataclass(frozen=True)
class Batch:
    """What one update learns from."""

    waves: torch.Tensor  # [B, samples] float32, normalised
    units: torch.Tensor  # [B, T] place in PHONEMES of what sounds in the middle of each frame
    texts: list[str]


class Speech:
    """Utterances kept in memory-mapped files: waves, texts and phoneme times, and batches of them."""

    def __init__(self, parts: list[Path]):
        self.waves = [np.load(part, mmap_mode="r") for part in parts]
        rows = [json.loads(part.with_suffix(".json").read_text()) for part in parts]
        self.rows = [row for part in rows for row in part]
        self.places = [place for place, part in enumerate(rows) for _ in part]  # which file each row is in
        self.hours = sum(len(wave) for wave in self.waves) / SAMPLE_RATE / 3600

    def wave(self, index: int) -> np.ndarray:
        """Waveform [samples] float32 of one utterance, as it was spoken."""
        row = self.rows[index]
        samples = self.waves[self.places[index]][row["start"] : row["start"] + row["samples"]]
        return samples.astype(np.float32) / 32768

    def batch(self, step: int, progress: float) -> Batch:
        """The batch of update `step`, of utterances of similar length; `progress` from 0 to 1 lightens it."""
        rng = random.Random(f"pool {step // POOL}")
        pool = sorted(rng.sample(range(len(self.rows)), BATCH * POOL), key=lambda i: self.rows[i]["samples"])
        place = rng.sample(range(POOL), POOL)[step % POOL]
        noise = np.random.default_rng(step)
        chosen = pool[place * BATCH : (place + 1) * BATCH]
        heard = [self._heard(index, noise, _strength(progress, noise)) for index in chosen]
        samples = max(len(wave) for wave, _ in heard)
        waves = np.stack([normalised(_padded(wave, samples, noise)) for wave, _ in heard])
        units = np.stack([_unit_per_frame(phonemes, samples) for _, phonemes in heard])
        return Batch(torch.from_numpy(waves), torch.from_numpy(units), [self.rows[i]["text"] for i in chosen])

    def _heard(self, index: int, rng: np.random.Generator, strength: float) -> tuple[np.ndarray, list]:
        """One utterance after a moment of silence and augmentation, its (unit, second) pairs moved along."""
        before = rng.uniform(0, 0.25)  # seconds
        wave = np.concatenate([np.zeros(int(before * SAMPLE_RATE), np.float32), self.wave(index)])
        wave, speed = augment(wave, rng, strength)
        return wave, [(unit, (before + second) / speed) for unit, second in self.rows[index]["phonemes"]]


def write_speech(folder: Path, split: str, utterances: int, workers: int) -> list[Path]:
    """Speak the training speech, unless it is there: per part an array of all samples (int16) and a JSON of rows."""
    lines = corpus.script(split, utterances, 0, corpus.VOICES[split], RANDOM_SHARE if split == "train" else 0.0)
    parts = corpus.in_parts(lines)
    files = [folder / f"{split}-{number}.npy" for number in range(len(parts))]
    missing = [i for i, file in enumerate(files) if not file.with_suffix(".json").exists()]
    folder.mkdir(parents=True, exist_ok=True)
    with corpus.fresh_processes(workers) as pool:
        list(pool.map(_write_part, [parts[i] for i in missing], [files[i] for i in missing]))
    return files


def _write_part(lines: list[corpus.Line], file: Path) -> None:
    torch.set_num_threads(1)
    waves, rows, start = [], [], 0
    for line, wave, phonemes in corpus.perform(lines):
        units = [(unit(name), round(second, 4)) for name, second in phonemes]
        rows.append({"text": line.text, "start": start, "samples": len(wave), "phonemes": units})
        waves.append((32767 * np.clip(wave, -1, 1)).astype(np.int16))
        start += len(wave)
    np.save(file, np.concatenate(waves))
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(rows))
    os.replace(temporary, file.with_suffix(".json"))  # last: it says that the part is whole


def unit(name: str) -> int:
    """Place in `PHONEMES` of espeak's phoneme `name`, stress and finer shades left out."""
    plain = re.sub(r"[',;%=|~#?!^*\"]|(?<=[@aI3Vilnrd])[0-9]+", "", name)
    while plain and plain not in PHONEMES:
        plain = plain[:-1]
    return PHONEMES.index(plain) if plain else 0


def normalised(wave: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance, as the feature extractor does it."""
    return ((wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)).astype(np.float32)


def _padded(wave: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """`wave` at the end of faint noise: true zeros would tell the group norm that this is padding."""
    faint = 1e-3 * np.abs(wave).max() * rng.standard_normal(samples - len(wave))
    return np.concatenate([wave, faint]).astype(np.float32)


def _strength(progress: float, rng: np.random.Generator) -> float:
    if progress < 2 / 3 or rng.random() < 0.25:
        return rng.uniform(0.2, 1.0)
    return rng.choice([0.0, 0.1, 0.3])


def _unit_per_frame(phonemes: list[tuple[int, float]], samples: int) -> np.ndarray:
    """The unit sounding at the middle of each frame [T]; silence before the first."""
    frames = (samples - WINDOW) // HOP + 1
    middle = (np.arange(frames) * HOP + WINDOW / 2) / SAMPLE_RATE
    starts = np.array([second for _, second in phonemes])
    units = np.array([0, *(unit for unit, _ in phonemes)])
    return units[np.searchsorted(starts, middle, side="right")]
