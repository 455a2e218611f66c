"""Frames written as they are computed, in any order, and the index once all are there.

Training keeps the frames that its encoder computes anyway (`FeatureWriter`), `prep features` makes the missing ones.
Both write into one directory; its shards say which utterances they hold (coverage.py).
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
from data_prep.features.folder import FeatureFolder, join
from data_prep.shards.coverage import Coverage, cache_fingerprint, notes_of
from data_prep.shards.files import INDEX_NAME, UNFINISHED_NAME, columns_path, read_document, shard_name
from data_prep.shards.frames import EXTENSIONS, to_bytes
from data_prep.shards.index import ShardIndex
from data_prep.shards.tar import ShardWriter, read_meta
from model.loading.pretrained import files_digest

FIRST_LOOSE = 500_000  # shards that correspond to no audio shard are numbered from here on
MAX_UTTERANCES, MAX_BYTES = 1000, 512 << 20  # of such a shard: at either it is published


class OpenShard:
    """A shard of frames that is being written, and which utterances it holds."""

    def __init__(self, path: Path) -> None:
        self._path, self._writer = path, ShardWriter(path)
        self._ids: list[int] = []
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def full(self) -> bool:
        return len(self._ids) >= MAX_UTTERANCES or self._bytes >= MAX_BYTES

    def add(self, audio: ShardIndex, i: int, dtype: str, media: bytes, meta: dict[str, Any]) -> None:
        """Utterance `i` of the audio index; `meta` with frames and dim."""
        self._writer.add(audio.key[i], EXTENSIONS[dtype], media, meta, int(audio.samples[i]), meta["frames"])
        self._ids.append(i)
        self._bytes += len(media)

    def publish(self, audio: ShardIndex, fingerprint: dict[str, Any]) -> None:
        """On disk, with its columns, when this returns."""
        with self._writer:
            self._writer.close(notes_of(audio, self._ids, fingerprint))

    def drop(self) -> None:
        """Removes what was written of it."""
        self._writer.__exit__(None, None, None)
        if self._path.exists() and not self._path.stat().st_size:  # loose_path made it
            self._path.unlink()


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
    ) -> None:
        """`fingerprint` is the encoder's; frames are kept as `dtype`. No rank of `size` takes another's names."""
        self.fingerprint = cache_fingerprint(fingerprint, dtype)
        self._out, self._audio, self._dtype, self._rank, self._size = out, audio, dtype, rank, size
        self._stack = ExitStack()
        self._stack.enter_context(join(out, self.fingerprint, {"audio": audio.digest()}))
        self._coverage = Coverage(out, audio, self.fingerprint)
        self._shard: OpenShard | None = None

    def has(self, key: str) -> bool:
        """Whether the utterance's frames were published by any rank before this one opened, or added here."""
        return bool(self._coverage.covered[self._coverage.number(key)])

    def add(self, key: str, frames: Tensor, meta: dict[str, Any] | None = None) -> None:
        """frames [T, D] of an utterance for which `has` is false; `meta` is that of its audio, read if not given.

        UserError for frames that the dtype cannot hold, naming the utterance. OSError for a full disk.
        """
        i = self._coverage.number(key)
        assert not self._coverage.covered[i], f"the frames of {key} are there already"
        meta = read_meta(self._audio, i) if meta is None else meta
        media = to_bytes(frames, self._dtype, key)
        if self._shard is None:
            self._shard = OpenShard(loose_path(self._out, self._rank, self._size))
        self._shard.add(self._audio, i, self._dtype, media, {**meta, "frames": len(frames), "dim": frames.shape[1]})
        self._coverage.covered[i] = True
        if self._shard.full:
            self.flush()

    def flush(self) -> None:
        """Publishes what was added so far as a shard of its own, on disk when this returns."""
        if self._shard is not None:
            self._shard.publish(self._audio, self.fingerprint)
            self._shard = None

    def close(self) -> None:
        """Publishes what was added, and unlocks the directory."""
        self.flush()
        self._stack.close()

    def abandon(self) -> None:
        """Drops what is not published, and unlocks the directory: after an error in `add` or `flush`."""
        if self._shard is not None:
            self._shard.drop()
        self._stack.close()

    def __enter__(self) -> FeatureWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close() if kind is None else self.abandon()


def finish_features(out: Path, audio: ShardIndex) -> bool:
    """Whether the frames of every utterance of `audio` are in `out`; if so, index.json is written.

    After all writers have closed. UserError if the features in `out` are of other audio.
    """
    if (out / UNFINISHED_NAME).exists():
        begun = read_document(out / UNFINISHED_NAME)
        with join(out, begun["fingerprint"], {"audio": audio.digest()}) as folder:
            finish_folder(folder, audio)
    return (out / INDEX_NAME).exists()


def finish_folder(folder: FeatureFolder, audio: ShardIndex, encoder: str = "") -> Totals | None:
    """Writes index.json; None if something is missing, or another rank has done it. `encoder`: its source."""
    with folder.alone():
        coverage = Coverage(folder.out, audio, folder.workdir.fingerprint)
        if not (folder.out / UNFINISHED_NAME).exists() or not coverage.complete:
            return None
        totals = finish(
            folder.workdir,
            "features",
            [ShardResult(coverage.shards[name]) for name in sorted(coverage.shards)],
            seconds=round(audio.seconds, 4),
            frames=coverage.frames,
            encoder_files=(files_digest(encoder) if encoder else None) or "",
        )
        folder.remove_leftovers()
    return totals


def loose_path(out: Path, rank: int, size: int) -> Path:
    """The path of a rank's next loose shard: a number that neither it nor, of this job, another rank has taken."""
    for number in count(FIRST_LOOSE + rank, size):
        path = out / shard_name(number)
        if not columns_path(path).exists():
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))  # taken, for another job too
                return path
    raise AssertionError
