"""`python -m recipes.real_pair.speech OUT`: more training speech for the real pair, as files and OUT/manifest.jsonl.

copies     each recording slower, and faster (the pitch changes too), some with noise: speed perturbation (Ko et al.
           2015) on files, as cached features cannot be played at another speed
joined     2 to 4 recordings of one speaker one after the other, so that there are longer utterances
phrases    texts of up to 14 words, and 2 to 14 words from longer ones, read by voices.py's voices

With --rooms all of them sound as if recorded in various rooms, with noise of various colours (acoustics.py).
Copies and joined utterances are the same for the same seed; Piper draws its own noise."""

import argparse
import json
import random
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_prep.audio.decode import SAMPLE_RATE, decode, encode_flac, resample
from data_prep.progress import Progress
from model.errors import UserError
from recipes.real_pair.acoustics import at_volume, numpy_rng, recorded
from recipes.real_pair.voices import VOICES

SPEEDS = (("slow", 0.82, 0.95), ("fast", 1.05, 1.2))  # name of a copy, its lowest and highest speed
SNRS_DB = (None, None, 25.0, 15.0)  # of copies; None: no noise
JOINED, PAUSE_SECONDS = (2, 2, 3, 4), 0.6  # recordings in a row; the longest pause between them
PHRASE_WORDS = (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14)
PITCHES = {True: (0.8, 1.25), False: (0.9, 1.35)}  # lowest and highest of a woman's voice, of a man's: to a child's


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
        "--texts",
        type=Path,
        action="append",
        default=[],
        help="JSON lines with texts for phrases: text (each file is read as often)",
    )
    parser.add_argument("--joined", type=int, default=0, help="utterances joined from the recordings of --copies (0)")
    parser.add_argument("--phrases", type=int, default=3400, help="number of phrases (3400)")
    parser.add_argument(
        "--voices", nargs="+", choices=sorted(VOICES), default=["piper", "flite"], help="that read (piper flite)"
    )
    parser.add_argument("--kokoro-speakers", type=Path, help="folder package/voices of kokoro-js")
    parser.add_argument("--rooms", action="store_true", help="as if recorded in various rooms, with various noise")
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
    texts = [[row["text"].lower().split() for row in read_lines(path, ("text",))] for path in args.texts]
    phrases = args.phrases if texts else 0
    if not rows and not phrases:
        raise UserError("nothing to write; give --copies MANIFEST, --texts FILE or both")
    together = args.joined if rows else 0
    utterances = chain(
        copies(rows, args.seed, args.rooms),
        joined(rows, together, args.seed),
        synthetic(texts, phrases, args) if phrases else (),
    )
    (args.out / "audio").mkdir(parents=True, exist_ok=True)
    with (
        open(args.out / "manifest.jsonl", "w", buffering=1) as manifest,
        Progress(len(rows) * len(SPEEDS) + together + phrases, label="speech") as progress,
    ):
        for key, wave, text, speaker in utterances:
            if args.rooms:
                wave = recorded(wave, random.Random(f"{args.seed} {key} room"))
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


def copies(rows: list[tuple[Path, dict[str, Any]]], seed: int, rooms: bool) -> Iterator[Utterance]:
    """Each recording in every one of SPEEDS, drawn to a hundredth; without rooms, some with noise."""
    for path, row in rows:
        wave = decode(path.parent / row["audio"])
        key = str(row.get("key", Path(row["audio"]).stem))
        for name, slowest, fastest in SPEEDS:
            rng = random.Random(f"{seed} {key} {name}")
            copy = resample(wave, round(100 * rng.uniform(slowest, fastest)), 100)
            if not rooms:
                copy = noisy(copy, rng)
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


def noisy(wave: np.ndarray, rng: random.Random) -> np.ndarray:
    """Float32 [N] with white noise of SNRS_DB, at another volume."""
    if (snr_db := rng.choice(SNRS_DB)) is not None:
        noise = numpy_rng(rng).standard_normal(len(wave))
        wave = wave + noise * wave.std() * 10 ** (-snr_db / 20)
    return at_volume(wave, rng.uniform(0.3, 1.0))


def synthetic(texts: list[list[list[str]]], count: int, args: argparse.Namespace) -> Iterator[Utterance]:
    """Phrases from the texts, by voices whose rate, pitch and volume vary. UserError if a voice is not installed."""
    voices = {name: VOICES[name](args.kokoro_speakers) for name in args.voices}
    for i in range(count):
        rng = random.Random(f"{args.seed} phrase {i}")
        line = rng.choice(rng.choice(texts))
        length = len(line) if len(line) <= max(PHRASE_WORDS) else rng.choice(PHRASE_WORDS)
        first = rng.randrange(len(line) - length + 1)
        phrase = " ".join(line[first : first + length])
        name = rng.choice(args.voices)
        wave, rate, speaker, is_woman = voices[name](phrase, rng)
        pitch = rng.uniform(*PITCHES[is_woman])
        wave = at_volume(resample(wave, round(rate * pitch / 100), SAMPLE_RATE // 100), rng.uniform(0.3, 1.0))
        before, after = (np.zeros(int(rng.uniform(0, most) * SAMPLE_RATE)) for most in (0.4, 0.5))
        wave = np.concatenate([before, wave, after])
        wave += rng.choice((0.0, 0.001, 0.003)) * numpy_rng(rng).standard_normal(len(wave))
        yield Utterance(f"{name}-{args.seed}-{i:06d}", wave, phrase, speaker)


if __name__ == "__main__":
    sys.exit(main())
