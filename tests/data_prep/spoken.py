"""Something like speech, clean enough that an audit finds nothing in it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.audio.decode import encode_flac
from data_prep.shards.index import shard_name, write_index
from data_prep.shards.tar import ShardWriter

WORDS = (
    "amber basket candle dagger ember falcon garden hollow island jungle kettle ladder meadow needle orchard".split()
)


@dataclass
class Spoken:
    """An utterance to be written: words, and how the wave that goes with them is changed."""

    text: str
    wave: np.ndarray
    language: str = "en"
    speaker: str = ""


def speech(seconds: float, seed: int) -> np.ndarray:
    """A hummed voice that rises and falls as syllables do, in a quiet room; float32 at 16 kHz."""
    time = np.arange(round(seconds * 16000)) / 16000
    voice = sum(np.sin(2 * np.pi * (110 + seed % 90) * n * time) / n for n in range(1, 6))
    noise = np.random.default_rng(seed).normal(0, 1e-4, len(time))
    return (0.2 * voice * np.sin(np.pi * 2.5 * time) ** 2 + noise).astype(np.float32)


def clean(number: int = 55, seed: int = 0) -> dict[str, Spoken]:
    """Sentences of their own, read at 14 to 16 characters a second by eleven speakers."""
    random = np.random.default_rng(seed)
    spoken = {}
    for n in range(number):
        text = " ".join([WORDS[n % 15], WORDS[n // 15], *random.choice(WORDS, 3)])
        wave = speech(len(text) / random.uniform(14, 16), seed + n)
        spoken[f"clean-{n:02}"] = Spoken(text, wave, speaker=f"speaker {n % 11}")
    return spoken


def written(out: Path, spoken: dict[str, Spoken], shard_size: int = 20) -> Path:
    """A dataset directory of them, whatever a build would refuse."""
    out.mkdir()
    keys, shards = sorted(spoken), []
    for first in range(0, len(keys), shard_size):
        with ShardWriter(out / shard_name(len(shards))) as writer:
            for key in keys[first : first + shard_size]:
                one = spoken[key]
                meta = {"text": one.text, "seconds": len(one.wave) / 16000, "language": one.language}
                meta |= {"speaker": one.speaker, "task": "transcribe", "meta": {}}
                writer.add(key, "flac", encode_flac(one.wave), meta, len(one.wave))
            shards.append(writer.close())
    write_index(out, "audio", shards, {}, {}, {})
    return out
