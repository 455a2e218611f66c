"""Goal 8, first half: FLAC files to shards and their index, copied as they are. `python -m bench.build_path`.

`build` with each header read and checked, the bytes copied, hashed, indexed and synced to disk, against decoding,
resampling and encoding: the same `build` of the same recordings at 48 kHz, kept as WAV, which costs next to nothing to
decode. One process each. What is copied is by default decoded, too, to find damage in the middle: that is in the note.
"""

from __future__ import annotations

import os
import shutil
import wave
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from bench import corpora
from bench.goal import Goal
from bench.timing import median, ratios, side_by_side, spread
from data_prep.audio import decode as audio
from data_prep.build.build import BuildOptions, build
from data_prep.build.prepare import Limits
from data_prep.utterance import Utterance

MINUTES = 20.0
REPEATS = 5
OTHER_RATE = 48_000  # Hz


def run(scale: float = 1.0) -> list[Goal]:
    """How many times less CPU than decoding, resampling and encoding."""
    torch.set_num_threads(1)
    minutes = max(5.0, round(MINUTES * scale))
    utterances = corpora.speech(minutes)
    upsampled = _upsampled(utterances, corpora.PLACE / f"speech-{minutes:g}-48k")
    costs = side_by_side(
        {
            "copied": _building(utterances, Limits(verify=False)),
            "copied and decoded": _building(utterances, Limits()),
            "encoded": _building(upsampled, Limits()),
        },
        REPEATS,
    )
    shutil.rmtree(_OUT)
    hours = sum(utterance.duration or 0.0 for utterance in utterances) / 3600
    cpu = {name: [one.cpu / hours for one in found] for name, found in costs.items()}
    times = ratios(cpu["encoded"], cpu["copied"])
    figures = ", ".join(f"{name} {median(found):.2f}" for name, found in cpu.items())
    note = f"{minutes:g} min of speech; CPU-s/audio-h: {figures}"
    return [
        Goal("8", "decode, resample, encode, CPU of copying", median(times), 8.0, "higher", "x", spread(times), note)
    ]


_OUT = corpora.PLACE / "built"


def _building(utterances: Sequence[Utterance], limits: Limits) -> Callable[[], None]:
    def work() -> None:
        shutil.rmtree(_OUT, ignore_errors=True)
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            totals = build(utterances, _OUT, BuildOptions(limits=limits))
        assert totals.utterances == len(utterances)

    return work


def _upsampled(utterances: Sequence[Utterance], folder: Path) -> list[Utterance]:
    """The same recordings as 16-bit WAV at 48 kHz."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for utterance in utterances:
        path = folder / f"{utterance.key}.wav"
        if not path.exists():
            heard = audio.resample(audio.decode(utterance.audio), audio.SAMPLE_RATE, OTHER_RATE)
            _write_wav(path, np.clip(np.rint(heard * 32768), -32768, 32767).astype("<i2"))
        found.append(replace(utterance, audio=str(path)))
    return found


def _write_wav(path: Path, samples: np.ndarray) -> None:
    temporary = path.with_suffix(".tmp")
    with wave.open(str(temporary), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(OTHER_RATE)
        file.writeframes(samples.tobytes())
    os.replace(temporary, path)


if __name__ == "__main__":
    for goal in run():
        print(goal.line())
