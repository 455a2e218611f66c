"""Spoken digits in a folder of WAVs with a CSV, and `slam-asr run` from there to a word error rate, with its time.

    python -m tests.newcomer [--folder DIR] [--busy]

The digits are in the manner of FSDD (github.com/Jakobovski/free-spoken-digit-dataset): 8 kHz, six voices, of which five
are trained on; a synthesiser speaks here. `slam-asr run` takes them to a word error rate on the sixth voice. --busy
measures the same once more beside a process that keeps a core busy, and prints how many times as long that takes.
"""

import argparse
import csv
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import wave
from pathlib import Path

import numpy as np

from data_prep.audio.decode import resample
from data_prep.synth import espeak
from model.sample_rate import SAMPLE_RATE

ROOT = Path(__file__).resolve().parents[1]
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TRAIN_VOICES = ("en-us+m1", "en-us+f1", "en+m2", "en-us+klatt", "en+f2")
TEST_VOICE = "en-us+m4"
RATE = 8000  # Hz


def write_digits(folder: Path, of_each: int, of_each_test: int) -> tuple[Path, Path]:
    """Writes recordings/*.wav, train.csv and test.csv (file, text, speaker); so many of each digit and voice."""
    (folder / "recordings").mkdir(parents=True)
    draw = random.Random(0)
    train = [_speak(folder, voice, digit, n, draw) for voice, digit, n in _spoken(TRAIN_VOICES, of_each)]
    test = [_speak(folder, voice, digit, n, draw) for voice, digit, n in _spoken((TEST_VOICE,), of_each_test)]
    return _table(folder / "train.csv", train), _table(folder / "test.csv", test)


def _spoken(voices: tuple[str, ...], of_each: int):
    return itertools.product(voices, DIGITS, range(of_each))


def _speak(folder: Path, voice: str, digit: str, number: int, draw: random.Random) -> tuple[str, str, str]:
    """Says a digit, faster or slower, higher or lower; the row of it."""
    said, _ = espeak.speak(digit, voice, draw.randint(140, 190), draw.randint(38, 62))
    samples = resample(resample(said, espeak.SAMPLE_RATE), SAMPLE_RATE, RATE)
    speaker = voice.replace("+", "_")
    name = f"recordings/{digit}_{speaker}_{number}.wav"
    with wave.open(str(folder / name), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return name, digit, speaker


def _table(path: Path, rows: list[tuple[str, str, str]]) -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([("file", "text", "speaker"), *rows])
    return path


def command(digits: Path, out: Path, *more: str) -> list[str]:
    """The one command."""
    models = [f"--{name}={ROOT / 'model' / 'stand_in' / name}" for name in ("encoder", "llm")]
    program = str(Path(sys.executable).parent / "slam-asr")
    where = [str(digits / "train.csv"), "--test", str(digits / "test.csv"), "--out", str(out)]
    return [program, "run", *where, *models, *more]


def timed(digits: Path, out: Path, *more: str) -> float:
    """Seconds that it takes."""
    began = time.monotonic()
    subprocess.run(command(digits, out, *more), check=True, env=_without_threads())
    return time.monotonic() - began


def _without_threads() -> dict[str, str]:
    """As on a fresh machine: the number of threads is the project's own choice."""
    return {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.newcomer", description="From digits to a WER.")
    parser.add_argument("--folder", type=Path, help="a new one, kept (default: temporary)")
    parser.add_argument("--busy", action="store_true", help="measure it once more beside one busy process")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    args = parser.parse_intermixed_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary) / "newcomer"
        write_digits(folder / "digits", of_each=20, of_each_test=20)
        alone = timed(folder / "digits", folder / "alone", *args.overrides)
        score = json.loads((folder / "alone" / "scores" / "test" / "score.json").read_text())["all"]
        print(f"\nfirst WER after {alone:.0f} s: {100 * score['wer']:.1f} % of {score['words']} words")
        if args.busy:
            busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            try:
                beside = timed(folder / "digits", folder / "busy", *args.overrides)
            finally:
                busy.kill()
                busy.wait()
            print(f"\nbeside a busy process: {beside:.0f} s, {beside / alone:.2f} times as long")
    return 0


if __name__ == "__main__":
    sys.exit(main())
