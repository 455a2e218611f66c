"""Write a corpus of synthetic speech: `write_corpus(out, "train", 2000, seed=0, workers=2)`.

1. `script` draws voices and texts from the seed: training sentences in training voices, or held-out sentences in the
   held-out voices of "dev", "test" and "hard".
2. The script is cut into eight parts, whatever the number of workers. Each part is spoken in a new process, since
   espeak-ng's output depends on all that the process has spoken before.
3. Every part writes its FLAC files; the JSON lines that name them come last, in the order of the script.

So the same call gives the same bytes, on one core or on sixteen, with one version of espeak-ng.

A voice is an accent (espeak's names; "en" is British) and a variant, "en-us+m3". Variants, not voices, are divided
among the splits, so a test voice is new in every accent, and look-alikes (edward and edward2, the three stephs) stay on
one side. "hard" voices whisper, croak or are robots; the `flite` program, where installed, joins them."""

import json
import multiprocessing
import random
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.audio import decode as audio
from data_prep.durable import write_durably
from data_prep.synth import espeak, sentences
from model.errors import require_at_least, require_known

PARTS = 8
ACCENTS = ("en", "en-us", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029", "en-us-nyc")
_VARIANTS = {
    "train": "f1 f2 f5 m1 m2 m3 m7 m8 klatt klatt2 klatt5 klatt6 Alex Andrea Annie Denis Diogo Gene Gene2 Henrique "
    "Hugo Lee Mario Michael Mike mike2 Nguyen Reed RicishayMax RicishayMax2 adam antonio anika announcer aunty "
    "benjamin boris caleb ed fast grandpa gustave ian iven iven2 john kaukovalta marcelo max michel miguel "
    "pablo paul pedro quincy robert sandro victor zac",
    "dev": "f3 m5 klatt3 Andy linda travis",
    "test": "f4 m4 m6 klatt4 Alicia Jacky belinda david edward norbert rob shelby steph",
    "hard": "whisper whisperf croak grandma UniRobot anikaRobot Demonic Tweaky robosoft robosoft5",
}
_ACCENTS_OF = {"train": ACCENTS, "dev": ("en", "en-us"), "test": ("en", "en-us"), "hard": ("en-us",)}

FLITE = "flite"  # the voice that is another program, not espeak-ng's

VOICES = {
    split: tuple(f"{accent}+{variant}" for variant in variants.split() for accent in _ACCENTS_OF[split])
    for split, variants in _VARIANTS.items()
}
"""The voices of each split, drawn up before anything was trained and never chosen by results."""


@dataclass(frozen=True)
class Line:
    """One utterance to speak; `words_per_minute` and `pitch` (0 to 100) are espeak-ng's."""

    key: str
    voice: str
    text: str
    words_per_minute: int
    pitch: int


def write_corpus(out: Path, split: str, utterances: int, seed: int, workers: int) -> Path:
    """Write `out`/`split`.jsonl and `out`/`split`/audio/*.flac (16 kHz, mono, 16 bit); return the former.

    One line an utterance: key, audio (path relative to the file), text, duration (seconds), speaker (the voice),
    language. UserError for an unknown split or a number that cannot be. What was there under these names is replaced.
    """
    require_known("split", split, VOICES)
    require_at_least("utterances", utterances, 1)
    require_at_least("workers", workers, 1)
    folder = Path(out) / split / "audio"
    folder.mkdir(parents=True, exist_ok=True)
    parts = in_parts(script(split, utterances, seed, installed(split)))
    with fresh_processes(workers) as pool:
        durations = [seconds for part in pool.map(_write_part, parts, [folder] * len(parts)) for seconds in part]
    rows = []
    for line, duration in zip(sum(parts, []), durations, strict=True):
        row = {"key": line.key, "audio": f"{split}/audio/{line.key}.flac", "text": line.text}
        rows.append(row | {"duration": round(duration, 4), "speaker": line.voice, "language": "en"})
    manifest = Path(out) / f"{split}.jsonl"
    write_durably(manifest, "".join(json.dumps(row) + "\n" for row in rows).encode())
    return manifest


def installed(split: str) -> tuple[str, ...]:
    """The voices of `split` on this machine: `VOICES[split]`, and flite among the hard ones where it is installed."""
    return VOICES[split] + ((FLITE,) if split == "hard" and shutil.which(FLITE) else ())


def script(split: str, utterances: int, seed: int, speakers: tuple[str, ...], random_share: float = 0.0) -> list[Line]:
    """Text, voice and pace of each utterance, decided by the arguments alone; `random_share` of the texts are word
    strings."""
    rng = random.Random(f"{split} {seed}")
    lines = []
    for number in range(utterances):
        voice = rng.choice(speakers)
        text = sentences.draw(rng, held_out=split != "train", random_share=random_share)
        key = f"{split}_{number:06d}_{re.sub(r'[^A-Za-z0-9]+', '_', voice)}"
        lines.append(Line(key, voice, text, rng.randint(150, 200), rng.randint(38, 62)))
    return lines


def in_parts(lines: list[Line]) -> list[list[Line]]:
    """`lines` cut into at most `PARTS` runs of nearly equal length."""
    cuts = [len(lines) * part // PARTS for part in range(PARTS + 1)]
    return [lines[start:end] for start, end in zip(cuts, cuts[1:], strict=False) if end > start]


def fresh_processes(workers: int) -> ProcessPoolExecutor:
    """A pool in which every task gets a process that has not spoken yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torchaudio.transforms"])  # imported once, before the forks
    return ProcessPoolExecutor(workers, context, max_tasks_per_child=1)


def perform(lines: list[Line]) -> Iterator[tuple[Line, np.ndarray, espeak.Phonemes]]:
    """Speak `lines` in order: each with its waveform [samples] float32 at 16 kHz and its phonemes (flite has none)."""
    for line in lines:
        if line.voice == FLITE:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "speech.wav"
                subprocess.run([FLITE, "-t", line.text, "-o", str(path)], check=True, capture_output=True)
                yield line, audio.decode(path), []
        else:
            wave, phonemes = espeak.speak(line.text, line.voice, line.words_per_minute, line.pitch)
            yield line, audio.resample(wave, espeak.SAMPLE_RATE), phonemes


def _write_part(lines: list[Line], folder: Path) -> list[float]:
    durations = []
    for line, wave, _ in perform(lines):
        audio.write_flac(folder / f"{line.key}.flac", wave)
        durations.append(len(wave) / audio.SAMPLE_RATE)
    return durations
