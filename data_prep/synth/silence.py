"""Write a corpus without speech: `write_silence(out, 200, seed=0)`.

Each kind of data_prep/audio/wordless.py in turn, 0.4 to 20 s long, evenly by the logarithm. A recording depends on seed
and number alone, so a larger corpus begins with the smaller one."""

import json
from pathlib import Path

import numpy as np

from data_prep.audio.decode import SAMPLE_RATE, write_flac
from data_prep.audio.wordless import KINDS
from data_prep.durable import write_durably
from model.errors import require_at_least

SPLIT = "silence"
SECONDS = (0.4, 20.0)  # from a word to a long sentence


def write_silence(out: Path, recordings: int, seed: int) -> Path:
    """Write `out`/silence.jsonl and `out`/silence/audio/*.flac (16 kHz, mono, 16 bit); return the former.

    One line a recording: key, audio (path relative to the file), an empty text, duration (seconds), kind. UserError for
    a number that cannot be. What was there under these names is replaced."""
    require_at_least("utterances", recordings, 1)
    folder = Path(out) / SPLIT / "audio"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(recordings):
        kind = list(KINDS)[number % len(KINDS)]
        rng = np.random.default_rng([seed, number])
        wave = KINDS[kind](round(np.exp(rng.uniform(*np.log(SECONDS))) * SAMPLE_RATE), rng)
        key = f"{SPLIT}_{number:06d}_{kind}"
        write_flac(folder / f"{key}.flac", wave)
        row = {"key": key, "audio": f"{SPLIT}/audio/{key}.flac", "text": ""}
        rows.append(row | {"duration": round(len(wave) / SAMPLE_RATE, 4), "kind": kind})
    manifest = Path(out) / f"{SPLIT}.jsonl"
    write_durably(manifest, "".join(json.dumps(row) + "\n" for row in rows).encode())
    return manifest
