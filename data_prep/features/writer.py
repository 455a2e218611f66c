"""Frames written as they are computed, in any order, and the index once all are there.

Training keeps the frames that its encoder computes anyway, `prep features` computes the missing ones. Both write into
one directory; its shards say which utterances they hold (coverage.py).
"""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from data_prep.build.finish import Totals, finish
from data_prep.build.write import ShardResult
from data_prep.features.folder import join
from data_prep.shards.coverage import Coverage, cache_fingerprint, notes_of
from data_prep.shards.frames import EXTENSIONS, to_bytes
from data_prep.shards.index import ShardIndex, columns_path, shard_name
from data_prep.shards.opening import UNFINISHED_NAME
from data_prep.shards.tar import ShardWriter, read_meta
from model.loading import files_digest

FIRST_LOOSE = 500_000  # shards that correspond to no audio shard are numbered from here on
MAX_UTTERANCES, MAX_BYTES = 1000, 512 << 20  # of such a shard: at either it is published


class FeatureWriter:
    """One rank's part of a cache: add frames in any order; `close`, or leave the `with` block, at the end.

    Each utterance is in one of the shards that this rank publishes; two ranks should not add the same. UserError if
    `out` holds another encoder's work. An error inside the block leaves what is not published unwritten.
    """

    def __init__(
        self,
        out: Path,
        audio: ShardIndex,
        fingerprint: dict[str, Any],
        dtype: str = "float16",
        rank: int = 0,
        size: int = 1,
        overwrite: bool | None = None,
    ) -> None:
        """`fingerprint` is the encoder's; frames are kept as `dtype`. No rank of `size` takes another's names.
        `overwrite`: as of workdir.require_resumable."""
        self.out, self.audio, self.dtype, self.rank, self.size = out, audio, dtype, rank, size
        self.fingerprint = cache_fingerprint(fingerprint, dtype)
        self._stack = ExitStack()
        self.folder = self._stack.enter_context(join(out, self.fingerprint, {"audio": audio.digest()}, overwrite))
        self.coverage = Coverage(out, audio, self.fingerprint)
        self._shard: ShardWriter | None = None
        self._ids: list[int] = []
        self._bytes = 0

    def has(self, key: str) -> bool:
        """Whether the utterance's frames were published by any rank before this one opened, or added here."""
        return bool(self.coverage.covered[self.coverage.number(key)])

    def add(self, key: str, frames: Tensor, meta: dict[str, Any] | None = None) -> None:
        """frames [T, D] of an utterance for which `has` is false; `meta` is that of its audio, read if not given.

        UserError for frames that the dtype cannot hold, naming the utterance. OSError for a full disk.
        """
        i = self.coverage.number(key)
        assert not self.coverage.covered[i], f"the frames of {key} are there already"
        meta = read_meta(self.audio, i) if meta is None else meta
        self.write(i, to_bytes(frames, self.dtype, key), meta, len(frames), frames.shape[1])
        self.coverage.covered[i] = True
        if len(self._ids) >= MAX_UTTERANCES or self._bytes >= MAX_BYTES:
            self.flush()

    def write(
        self, i: int, media: bytes, meta: dict[str, Any], frames: int, dim: int, path: Path | None = None
    ) -> None:
        """The frames of utterance `i` of the audio as bytes. `path`: of the shard that is begun if none is open."""
        if self._shard is None:
            self._shard = ShardWriter(path or self.loose_path())
        meta, samples = meta | {"frames": frames, "dim": dim}, int(self.audio.samples[i])
        self._shard.add(self.audio.key[i], EXTENSIONS[self.dtype], media, meta, samples, frames)
        self._ids.append(i)
        self._bytes += len(media)

    def flush(self) -> None:
        """Publishes what was added so far as a shard of its own, on disk when this returns."""
        if self._shard is not None:
            with self._shard:
                self._shard.close(notes_of(self.audio, self._ids, self.fingerprint))
            self._shard, self._ids, self._bytes = None, [], 0

    def finish(self, encoder: str = "") -> Totals | None:
        """Writes index.json; None if something is missing, or another rank has done it. `encoder`: its source."""
        with self.folder.alone():
            self.coverage = Coverage(self.out, self.audio, self.fingerprint)
            if not (self.out / UNFINISHED_NAME).exists() or not self.coverage.covered.all():
                return None
            totals = finish(
                self.folder.workdir,
                "features",
                [ShardResult(self.coverage.shards[name]) for name in sorted(self.coverage.shards)],
                seconds=round(self.audio.seconds, 4),
                frames=self.coverage.frames,
                encoder_files=(files_digest(encoder) if encoder else None) or "",
            )
            self.folder.remove_leftovers()
        return totals

    def close(self) -> None:
        """Publishes what was added, and unlocks the directory."""
        self.flush()
        self._stack.close()

    def abandon(self) -> None:
        """Drops what is not published, and unlocks the directory: after an error in `write` or `flush`."""
        if self._shard is not None:
            self._shard.__exit__(None, None, None)
            if self._shard.path.exists() and not self._shard.path.stat().st_size:  # loose_path made it
                self._shard.path.unlink()
        self._stack.close()

    def loose_path(self) -> Path:
        """The path of a new shard with a number that no rank of this or another job has taken."""
        for number in count(FIRST_LOOSE + self.rank, self.size):
            path = self.out / shard_name(number)
            if not columns_path(path).exists():
                with suppress(FileExistsError):
                    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
                    return path
        raise AssertionError

    def __enter__(self) -> FeatureWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close() if kind is None else self.abandon()
