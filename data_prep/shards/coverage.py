"""Which utterances of an audio index already have their frames in a directory, and in which shards.

A finished shard of frames counts if every utterance in it is in the index, by key and by the CRC of its audio and
transcript, and in no other shard that counts. The utterances of a shard that does not count are encoded again."""

import hashlib
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.durable import canonical_json
from data_prep.shards.index import FORMAT, SHARD_NAME, VERSION, ShardIndex, ShardInfo, columns_path, parse_columns
from data_prep.shards.opening import finished_shard, read_document
from model.errors import UserError

AUDIO_CRC = "audio_crc32"  # in the columns of a feature shard: each utterance's in the index of the audio


def cache_fingerprint(encoder: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The encoder's fingerprint and the type that its frames are stored as: the identity of a feature cache."""
    return {**encoder, "feature_dtype": dtype}


def recipe_of(fingerprint: dict[str, Any]) -> str:
    """sha256 hex that all shards of features with this fingerprint share."""
    return hashlib.sha256(canonical_json([FORMAT, VERSION, "features", fingerprint])).hexdigest()


def notes_of(audio: ShardIndex, ids: list[int], fingerprint: dict[str, Any]) -> dict[str, Any]:
    """What is stored beside the columns of a shard that holds the frames of utterances `ids`, in this order."""
    return {"recipe": recipe_of(fingerprint), AUDIO_CRC: [int(audio.crc32[i]) for i in ids]}


class Coverage:
    """The shards of `out` that count, of those finished when `refresh` was last called."""

    def __init__(self, out: Path, audio: ShardIndex, fingerprint: dict[str, Any]) -> None:
        self.covered = np.zeros(len(audio), bool)  # of each utterance of the index, whether its frames are there
        self.shards: dict[str, ShardInfo] = {}  # those that count, by name
        self.frames = 0  # in those
        self._out, self._audio, self._recipe = out, audio, recipe_of(fingerprint)
        self._number = {key: i for i, key in enumerate(audio.key)}
        if len(self._number) < len(audio):
            twice = Counter(audio.key).most_common(1)[0][0]
            advice = "merge it with `slam-asr prep merge --prefix-keys`"
            raise UserError(f"key {twice} is there twice in the audio; {advice}")
        self._seen: dict[str, tuple[int, int]] = {}
        self.refresh()

    def missing(self, ids: range) -> list[int]:
        """Those of `ids` that are not covered."""
        return [i for i in ids if not self.covered[i]]

    def number(self, key: str) -> int:
        """The utterance's number in the index. UserError for a key that is not in it."""
        if key not in self._number:
            raise UserError(f"utterance {key} is not in {self._audio.root}, whose features these are")
        return self._number[key]

    def refresh(self) -> None:
        """Looks for shards that were finished since."""
        for path in sorted(self._out.glob("shard-*.tar")):
            if path.name in self.shards or not SHARD_NAME.fullmatch(path.name):
                continue
            with suppress(OSError):  # not published yet
                status = columns_path(path).stat()
                state = (status.st_mtime_ns, status.st_size)
                if self._seen.get(path.name) != state:
                    self._seen[path.name] = state
                    self._add(path)

    def _add(self, path: Path) -> None:
        """Counts the shard if it is finished and holds frames of this audio alone."""
        info = finished_shard(path, self._recipe)
        try:
            document = read_document(columns_path(path))
            columns, crc = parse_columns(document["columns"]), document[AUDIO_CRC]
        except (UserError, KeyError, AttributeError, TypeError):
            return
        if info is None or columns is None:
            return
        ids, audio = [self._number.get(key, -1) for key in columns["key"]], self._audio
        if not ids or min(ids) < 0 or self.covered[ids].any() or not len(set(ids)) == len(ids) == len(crc):
            return
        if np.array_equal(audio.crc32[ids], crc) and np.array_equal(audio.samples[ids], columns["samples"]):
            self.covered[ids] = True
            self.frames += int(columns["frames"].sum())
            self.shards[path.name] = info
