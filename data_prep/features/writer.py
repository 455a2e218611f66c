"""The directory of a feature cache, which the ranks of one job fill together, without waiting for each other.

Training keeps the frames that its encoder computes anyway, `prep features` computes the missing ones; the shards say
which utterances they hold (coverage.py), and index.json is written once all are there. To encode, a rank locks a shard
of audio, by a lock that ends with its process: so no two ranks encode the same, and the unfinished work of a rank that
was killed is done by another. Where the file system has no locks each rank keeps to its own share. Another job, and any
other command that writes into this directory, is refused."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from data_prep.build import workdir
from data_prep.durable import canonical_json, lock, sync_folder
from data_prep.shards.coverage import Coverage, cache_fingerprint, notes_of
from data_prep.shards.frames import EXTENSIONS, to_bytes
from data_prep.shards.index import ShardIndex, columns_path, shard_name
from data_prep.shards.opening import UNFINISHED_NAME
from data_prep.shards.tar import ShardWriter, read_meta
from model.errors import UserError
from model.loading import files_digest

LOCK_NAME = ".ranks.lock"
BEGIN_OR_FINISH, FIRST_SHARD = 0, 1  # bytes of LOCK_NAME: locked for a moment; of shard 0, those of others behind it
FIRST_LOOSE = 500_000  # shards that correspond to no audio shard are numbered from here on
MAX_UTTERANCES, MAX_BYTES = 1000, 512 << 20  # of such a shard: at either it is published


@dataclass
class FeatureFolder:
    """A directory that this process has joined; `join` makes one."""

    finished: workdir.Totals | None  # where an earlier run finished this very cache
    locks: int | None  # descriptor of LOCK_NAME; None on a file system without locks

    def take(self, shard: int) -> bool:
        """Whether audio shard `shard` is now this process's to encode; False while another one has it."""
        try:
            self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB, FIRST_SHARD + shard)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            return False
        return True

    def release(self, shard: int) -> None:
        self._lock(fcntl.LOCK_UN, FIRST_SHARD + shard)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other rank begins or finishes in the block."""
        self._lock(fcntl.LOCK_EX, BEGIN_OR_FINISH)
        try:
            yield
        finally:
            self._lock(fcntl.LOCK_UN, BEGIN_OR_FINISH)

    def _lock(self, operation: int, byte: int) -> None:
        if self.locks is not None:
            fcntl.lockf(self.locks, operation, 1, byte)


@contextmanager
def join(
    out: Path, fingerprint: dict[str, Any], options: dict[str, Any], overwrite: bool | None = None
) -> Iterator[FeatureFolder]:
    """`out` (made if need be), shared with the other ranks of the same job. `overwrite`: as of `require_resumable`.
    UserError if another command or job is writing into it, or if it holds what was made from other input or options."""
    begun = False
    with ExitStack() as descriptors:
        try:
            out.mkdir(parents=True, exist_ok=True)
            folder = os.open(out, os.O_RDONLY)
            descriptors.callback(os.close, folder)
            locks = os.open(out / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            descriptors.callback(os.close, locks)
        except OSError as error:
            raise UserError(f"cannot write to {out}: {error.strerror}; give another directory") from None
        try:
            joined = FeatureFolder(None, locks)
            try:
                free = lock(folder, shared=True)
                fcntl.lockf(locks, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, 1 << 40)  # a byte that nobody else locks
            except OSError:  # a file system without locks
                joined.locks, free = None, True
            if not free:
                raise workdir.busy(out)
            with joined.alone():
                wanted = canonical_json({"fingerprint": fingerprint, "options": options})
                with suppress(OSError):  # whether it is this very cache that is unfinished here
                    begun = (out / UNFINISHED_NAME).read_bytes() == wanted
                if overwrite and joined.locks is not None and not begun:
                    if not lock(folder):
                        raise workdir.busy(out)
                    lock(folder, shared=True)
                joined.finished = workdir.require_resumable(out, fingerprint, options, overwrite)
                if joined.finished is None:
                    workdir.mark_unfinished(out, fingerprint, options)
            yield joined
        finally:
            if not (out / UNFINISHED_NAME).exists():
                (out / LOCK_NAME).unlink(missing_ok=True)


class FeatureWriter:
    """One rank's part of a cache: add frames in any order; `close`, or leave the `with` block, at the end.

    Each utterance is in one of the shards that this rank publishes; two ranks should not add the same. UserError if
    `out` holds another encoder's work. An error inside the block leaves what is not published unwritten."""

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
        `overwrite`: as of `require_resumable`."""
        self.out, self.audio, self.dtype, self.rank, self.size = out, audio, dtype, rank, size
        self.fingerprint = cache_fingerprint(fingerprint, dtype)
        self._stack = ExitStack()
        self._options = {"audio": audio.digest()}
        self.folder = self._stack.enter_context(join(out, self.fingerprint, self._options, overwrite))
        self.coverage = Coverage(out, audio, self.fingerprint)
        self._shard: ShardWriter | None = None
        self._ids: list[int] = []
        self._bytes = 0

    def has(self, key: str) -> bool:
        """Whether the utterance's frames were published by any rank before this one opened, or added here."""
        return bool(self.coverage.covered[self.coverage.number(key)])

    def add(self, key: str, frames: Tensor) -> None:
        """Frames [T, D] of an utterance for which `has` is false. UserError for frames that the dtype cannot hold,
        naming the utterance. OSError for a full disk."""
        i = self.coverage.number(key)
        assert not self.coverage.covered[i], f"the frames of {key} are there already"
        self.write(i, to_bytes(frames, self.dtype, key), read_meta(self.audio, i), len(frames), frames.shape[1])
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

    def finish(self, encoder: str = "") -> workdir.Totals | None:
        """Writes index.json; None if something is missing, or another rank has done it. `encoder`: its source."""
        with self.folder.alone():
            self.coverage = Coverage(self.out, self.audio, self.fingerprint)
            if not (self.out / UNFINISHED_NAME).exists() or not self.coverage.covered.all():
                return None
            totals = workdir.finish(
                workdir.WorkDir(self.out, self.fingerprint, self._options),
                "features",
                [workdir.ShardResult(self.coverage.shards[name]) for name in sorted(self.coverage.shards)],
                seconds=round(self.audio.seconds, 4),
                frames=self.coverage.frames,
                encoder_files=(files_digest(encoder) if encoder else None) or "",
            )
            workdir.remove_temporaries(self.out)
            for name in (UNFINISHED_NAME, LOCK_NAME):
                (self.out / name).unlink(missing_ok=True)
            sync_folder(self.out)
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

    def __enter__(self) -> "FeatureWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close() if kind is None else self.abandon()
