"""A little corpus of tones, made in a moment."""

from pathlib import Path

import numpy as np
import pytest

from data_prep.audio.decode import write_flac
from data_prep.utterance import Utterance
from tests.data_prep.object_storage import s3, storage

__all__ = ["corpus", "s3", "storage", "tone", "tree"]


def tone(seconds: float, hertz: float = 220.0, seed: int = 0) -> np.ndarray:
    """A tone in a little noise, float32 at 16 kHz."""
    count = round(seconds * 16000)
    noise = np.random.default_rng(seed).normal(0, 0.01, count)
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(count) / 16000) + noise).astype(np.float32)


@pytest.fixture
def corpus(tmp_path: Path) -> list[Utterance]:
    """Twelve utterances of 0.2 s to 0.75 s, with text beyond ASCII."""
    folder = tmp_path / "a corpus"
    folder.mkdir()
    utterances = []
    for number in range(12):
        path = folder / f"utt {number}.flac"
        write_flac(path, tone(0.2 + 0.05 * number, 200 + 30 * number, number))
        speaker = f"speaker{number % 3}"
        utterances.append(Utterance(f"utt-{number:02}", str(path), f"größe {number} ok", speaker=speaker))
    return utterances


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A chapter of a LibriSpeech tree: two utterances of one speaker."""
    folder = tmp_path / "Libri Speech" / "dev-clean" / "84" / "121123"
    folder.mkdir(parents=True)
    for number in range(2):
        write_flac(folder / f"84-121123-000{number}.flac", tone(0.3))
    (folder / "84-121123.trans.txt").write_text("84-121123-0000 GO DO YOU HEAR\n84-121123-0001 BUT IN LESS\n")
    (tmp_path / "Libri Speech" / "SPEAKERS.TXT").write_text(";ID |SEX|\n84   | F | dev-clean | 8.02 | Christie Nowak\n")
    return folder
