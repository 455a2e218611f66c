"""How long utterances are and how much is said in them: from a formula that needs no corpus, or from a list."""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.goal import Goal
from model.errors import UserError

CHARACTERS_PER_SECOND = 14.6  # of read English: 2,608 LibriSpeech utterances
CHARACTERS_PER_TOKEN = 4.0  # of English in Llama's vocabulary
QUANTILES = {  # seconds; LibriSpeech train-clean, which is cut to 17 s and mostly just under
    **{0.0: 1.9, 0.01: 2.5, 0.05: 4.1, 0.10: 6.3, 0.25: 11.3, 0.50: 13.9},
    **{0.75: 15.2, 0.90: 15.8, 0.95: 16.05, 0.99: 16.6, 1.0: 17.3},
}


@dataclass(frozen=True)
class Lengths:
    """N utterances."""

    source: str
    """Where these lengths come from, in words."""
    seconds: np.ndarray
    """float64 [N], audio."""
    characters: np.ndarray
    """int64 [N], transcript."""

    def __len__(self) -> int:
        return len(self.seconds)

    def drawn(self, count: int, seed: int) -> "Lengths":
        """`count` of these utterances, drawn with replacement."""
        chosen = np.random.default_rng(seed).integers(len(self), size=count)
        return Lengths(f"{self.source}, drawn from", self.seconds[chosen], self.characters[chosen])


def librispeech_like(count: int, seed: int) -> Lengths:
    """Seconds by the quantiles above, straight between them (mean 12.5); 14.6 characters a second, 12 % deviation."""
    random = np.random.default_rng(seed)
    seconds = np.interp(random.random(count), list(QUANTILES), list(QUANTILES.values()))
    return Lengths("LibriSpeech-like formula", seconds, _characters(seconds, random))


def in_the_wild(count: int, seed: int) -> Lengths:
    """Log-normal seconds, median 5, sigma 0.9, held between 0.5 and 30."""
    random = np.random.default_rng(seed)
    seconds = np.clip(np.exp(np.log(5.0) + 0.9 * random.standard_normal(count)), 0.5, 30.0)
    return Lengths("log-normal lengths", seconds, _characters(seconds, random))


def read_lengths(path: Path) -> Lengths:
    """A JSONL with `duration` (seconds) and `text` in each line; UserError for another file."""
    try:
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
        seconds = np.array([float(row["duration"]) for row in rows])
        characters = np.array([len(row["text"]) for row in rows])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot read lengths from {path}: {error!r}; give lines with duration and text") from None
    if len(rows) == 0:
        raise UserError(f"no utterances in {path}; give lines with duration and text")
    return Lengths(f"{len(rows):,} real utterances", seconds, characters)


def _characters(seconds: np.ndarray, random: np.random.Generator) -> np.ndarray:
    spread = np.exp(0.12 * random.standard_normal(len(seconds)))
    return np.maximum(1, CHARACTERS_PER_SECOND * seconds * spread).astype(np.int64)


def print_goals(run: Callable[[float, Path | None], Sequence[Goal]], description: str) -> None:
    """The command line of a file that measures on lengths."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=description)
    parser.add_argument("--lengths", type=Path, help="JSONL of real lengths: duration (seconds) and text in each line")
    parser.add_argument("--scale", type=float, default=1.0)
    args = parser.parse_args()
    for goal in run(args.scale, args.lengths):
        print(goal.line())
