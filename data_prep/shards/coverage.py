"""Which utterances of an audio index have their frames in a directory already, whoever wrote them, in which shards.

A finished shard of frames counts if every utterance in it is one of the index, by key and by the CRC of its audio and
transcript, and in no other shard that counts. What is in a shard that does not count is encoded again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.durable import canonical_json
from data_prep.shards.columns import parse_columns
from data_prep.shards.index import FORMAT, SHARD_NAME, VERSION, ShardIndex, ShardInfo, columns_path, read_document
from model.errors import UserError

AUDIO_CRC = "audio_crc32"  # in the columns of a feature shard: each utterance's in the index of the audio


def cache_fingerprint(encoder: dict[str, Any], dtype: str) -> dict[str, Any]:
    """What the frames of a cache depend on: the encoder's fingerprint, and the type that they are kept as."""
    return {**encoder, "feature_dtype": dtype}


def recipe_of(fingerprint: dict[str, Any]) -> str:
    """What all shards of features with this fingerprint have in common, sha256 hex."""
    return hashlib.sha256(canonical_json([FORMAT, VERSION, "features", fingerprint])).hexdigest()


def notes_of(audio: ShardIndex, ids: list[int], fingerprint: dict[str, Any]) -> dict[str, Any]:
    """What stands beside the columns of a shard that holds the frames of utterances `ids`, in this order."""
    return {"recipe": recipe_of(fingerprint), AUDIO_CRC: [int(audio.crc32[i]) for i in ids]}


class Coverage:
    """The shards of `out` that count, as far as they were finished when `refresh` was last called."""

    def __init__(self, out: Path, audio: ShardIndex, fingerprint: dict[str, Any]) -> None:
        self.covered = np.zeros(len(audio), bool)
        """Of each utterance of the index, whether its frames are there."""
        self.shards: dict[str, ShardInfo] = {}
        """Those that count, by name."""
        self.frames = 0
        """In those."""
        self._out, self._audio, self._recipe = out, audio, recipe_of(fingerprint)
        self._number = {key: i for i, key in enumerate(audio.key)}
        if len(self._number) < len(audio):
            twice = Counter(audio.key).most_common(1)[0][0]
            raise UserError(
                f"key {twice} is there twice in the audio; `slam-asr prep merge --prefix-keys` gives each directory "
                "its own"
            )
        self._seen: dict[str, tuple[int, int]] = {}
        self.refresh()

    @property
    def complete(self) -> bool:
        return bool(self.covered.all())

    def missing(self, ids: range) -> list[int]:
        """Those of `ids` that are not covered."""
        return [i for i in ids if not self.covered[i]]

    def number(self, key: str) -> int:
        """Of an utterance in the index. UserError for a key that it does not hold."""
        if key not in self._number:
            raise UserError(f"utterance {key} is not in {self._audio.root}, whose features these are")
        return self._number[key]

    def refresh(self) -> None:
        """Looks for shards that were finished since."""
        names = [path.name for path in self._out.glob("shard-*.tar") if SHARD_NAME.fullmatch(path.name)]
        for name in sorted(set(names) - set(self.shards)):
            columns = columns_path(self._out / name)
            try:
                status = columns.stat()
            except OSError:  # not published yet
                continue
            state = (status.st_mtime_ns, status.st_size)
            if self._seen.get(name) != state:
                self._seen[name] = state
                self._count_in(self._out / name)

    def _count_in(self, shard: Path) -> None:
        try:
            document = read_document(columns_path(shard))
            found = hashlib.sha256(columns_path(shard).read_bytes()).hexdigest()
            info = ShardInfo(**document["shard"], columns_sha256=found)
            columns, crc = parse_columns(document["columns"]), document[AUDIO_CRC]
            same = document["recipe"] == self._recipe and shard.stat().st_size == info.bytes
        except (UserError, OSError, KeyError, TypeError, AttributeError):
            return
        if columns is None or not same:
            return
        ids = [self._number.get(key, -1) for key in columns["key"]]
        if ids and min(ids) >= 0 and not self.covered[ids].any() and len(set(ids)) == len(ids) == len(crc):
            if np.array_equal(self._audio.crc32[ids], crc) and np.array_equal(
                self._audio.samples[ids], columns["samples"]
            ):
                self.covered[ids] = True
                self.frames += int(columns["frames"].sum())
                self.shards[shard.name] = info
