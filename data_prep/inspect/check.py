"""Reads every byte of a dataset directory and names what is wrong with it. What audit.py judges is seen on the way."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.addresses import is_remote
from data_prep.audio.decode import SAMPLE_RATE, AudioError, decode_media
from data_prep.figures import counted
from data_prep.progress import Progress
from data_prep.shards.files import read_document, read_listing
from data_prep.shards.frames import bytes_per_frame, count_not_finite
from data_prep.shards.index import INDEX_NAME, ShardIndex, ShardInfo, columns_path, meta_path, tar_path
from data_prep.shards.opening import read_index, shard_path
from data_prep.shards.tar import Sample, read_meta, read_sample, walk
from data_prep.workers import Stopped, TaskCounts, run_all
from model.errors import UserError

MEND = "delete {} and run the command that built it again: only what is missing is made"
SECONDS_SLACK = 0.001  # metadata gives seconds to four places

Look = Callable[[int, Sample, np.ndarray | None], None]
"""Called with each utterance that could be read: its place in the shard, and float32 [N] of it. A quick check gives no
wave, and a sample whose media is empty."""


@dataclass(frozen=True)
class ShardCheck:
    """All that a worker needs to check one shard."""

    root: Path
    info: ShardInfo
    index: ShardIndex | None
    """Of this shard alone; None where the directory's index cannot be read, and only the files are looked at."""
    decode: bool = True
    """Read and decode each utterance; else its metadata alone is read, where the hash of the whole tar is right."""


def check(root: str | os.PathLike[str], progress: Progress | None = None, workers: int = 1) -> list[str]:
    """One line for each thing found wrong, none if all is well. UserError only if `root` is no dataset directory.

    Hash of each tar and of its columns; each header against the index; each utterance read and decoded.
    """
    index, wrong = open_index(root)
    tasks = shard_checks(root, index)
    found: dict[int, list[str]] = {}
    if tasks:
        with progress or Progress(0 if index is None else len(index), label="check") as progress:
            found.update(run_all(check_shard, tasks, workers, progress))
    return in_order(wrong, found)


def open_index(root: str | os.PathLike[str]) -> tuple[ShardIndex | None, list[str]]:
    """The index, and what is wrong with the directory as a whole; None for an index that cannot be read.

    UserError for what is no dataset directory, and for an address whose index cannot be read.
    """
    if is_remote(root):
        return read_index(root), []
    unlisted = _unlisted(Path(root))
    try:
        return read_index(root), unlisted
    except UserError as error:
        return None, [*unlisted, str(error).split("; run ")[0]]


def shard_checks(root: str | os.PathLike[str], index: ShardIndex | None, decode: bool = True) -> list[ShardCheck]:
    """One task a shard."""
    if index is None:
        return [ShardCheck(Path(root), info, None, decode) for info in read_listing(Path(root))]
    return [ShardCheck(index.root, info, part(index, n), decode) for n, info in enumerate(index.shards)]


def part(index: ShardIndex, number: int) -> ShardIndex:
    """The index of one shard of it."""
    first, end = np.searchsorted(index.shard, [number, number + 1]).tolist()
    arrays: dict[str, Any] = {
        item.name: getattr(index, item.name)[first:end]
        for item in fields(index)
        if isinstance(getattr(index, item.name), np.ndarray)
    }
    arrays["shard"] = np.zeros(end - first, np.int32)
    return replace(index, shards=(index.shards[number],), key=index.key[first:end], **arrays)


def check_shard(task: ShardCheck, tally: TaskCounts, look: Look | None = None) -> list[str]:
    """One line for each thing wrong with a shard. Stopped if the whole check stops meanwhile."""
    index, name = task.index, task.info.label
    try:
        path = tar_path(task.root, task.info) if index is None else shard_path(index, 0)  # which may have to be fetched
    except UserError as error:
        tally.add(task.info.utterances)
        return [f"{name}: {error}"]
    problems = _check_file(task, path)
    if index is None:
        return problems
    quick = not (task.decode or problems or task.info.source)
    problems += _check_headers(index)
    for i, key in enumerate(index.key):
        if tally.stopped:
            raise Stopped
        try:
            sample = Sample(key, bytearray(), read_meta(index, i)) if quick else read_sample(index, i)
            for fault in _faults(index, i, sample.meta):
                problems.append(f"{name}, utterance {key}: {fault}")
            wave = _decoded(index, i, sample) if task.decode else None
        except AudioError as error:
            problems.append(f"{name}, utterance {key}: {error}")
        except UserError as error:
            problems.append(str(error).split("; run ")[0])
        else:
            if look is not None:
                look(i, sample, wave)
        tally.add(1)
    return problems


def in_order(wrong: list[str], found: dict[int, list[str]]) -> list[str]:
    """What shards told, in their order; before it what is wrong with the whole, if no shard says so itself."""
    told = [problem for number in sorted(found) for problem in found[number]]
    return [problem for problem in wrong if not any(line.split(":")[0] in problem for line in told)] + told


def _unlisted(root: Path) -> list[str]:
    """Whoever reads *.tar would train on these too."""
    listing = read_listing(root)
    tars = {path.name for path in root.glob(f"shard-{'[0-9]' * 6}.tar")}
    known = {info.name for info in listing} | {Path(info.source).name for info in listing}
    return [f"{name}: {INDEX_NAME} does not list it; delete it" for name in sorted(tars - known)]


def _check_file(task: ShardCheck, path: Path) -> list[str]:
    """Of the tar as a whole, and whether its columns are there, which a read index has shown already."""
    info = task.info
    name, mend = info.label, "index it again" if info.source else MEND.format(info.name)
    if not path.is_file():
        return [f"{name}: missing; run the command that built it again"]
    if path.stat().st_size != info.bytes:
        return [f"{name}: {path.stat().st_size:,} bytes, the index says {info.bytes:,}; {mend}"]
    columns = columns_path(task.root / info.name)
    if task.index is None and not columns.is_file():
        return [f"{columns.name}: missing; run the command that built it again"]
    try:
        metas = meta_path(task.root / info.name)
        if info.source and task.index is not None and _hash(metas) != read_document(columns).get("meta_sha256"):
            return [f"{metas.name}: its bytes are not those that {columns.name} describes (sha256); {mend}"]
        found = _hash(path)
    except OSError as error:
        return [f"{name}: cannot be read ({error.strerror}); look at its rights and disk"]
    return [] if found == info.sha256 else [f"{name}: its bytes have changed since it was built (sha256); {mend}"]


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_headers(index: ShardIndex) -> list[str]:
    """The tar's own list of members against the index: in order; of a tar of others, each member where it should be."""
    name = index.shards[0].label
    media = list(zip(index.key, index.offset.tolist(), index.length.tolist(), strict=True))
    metas = list(zip(index.key, index.meta_offset.tolist(), index.meta_length.tolist(), strict=True))
    try:
        if index.shards[0].source:
            from data_prep.recordings.tar_members import members

            places = {(member.offset, member.size) for member in members(shard_path(index, 0))}
            return [f"{name}, utterance {key}: no member is there" for key, *at in media if tuple(at) not in places]
        found = list(walk(shard_path(index, 0)))
    except (ValueError, OSError) as error:
        return [f"{name}: {error}"]
    named = [(member.rpartition(".")[0], offset, size) for member, offset, size in found[::2]]
    if named == media and found[1::2] == [(f"{key}.json", *at) for key, *at in metas]:
        return []
    return [f"{name}: its {counted(len(found), 'member')} are not the {2 * len(media):,} that the index lists"]


def _faults(index: ShardIndex, i: int, meta: dict[str, Any]) -> list[str]:
    """Where metadata and index contradict each other."""
    faults = []
    if len(meta["text"]) != index.characters[i]:
        faults.append("its transcript is not as long as the index says")
    seconds = float(index.samples[i]) / SAMPLE_RATE
    if abs(meta["seconds"] - seconds) > SECONDS_SLACK:
        faults.append(f"its metadata says {str(meta['seconds'])[:20]} s, the index {seconds:.4f} s")
    return faults


def _decoded(index: ShardIndex, i: int, sample: Sample) -> np.ndarray | None:
    """Float32 [N] of audio, None for features. AudioError for what cannot be decoded or is not as long as it must."""
    if index.kind == "features":
        _check_frames(index, i, sample)
        return None
    wave = np.empty(int(index.samples[i]), np.float32)
    decode_media(sample.media, index.media, wave)
    return wave


def _check_frames(index: ShardIndex, i: int, sample: Sample) -> None:
    count = int(index.frames[i])
    try:
        dtype, dim = index.fingerprint["feature_dtype"], int(index.fingerprint["dim"])
        row_bytes = bytes_per_frame(dim, dtype)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise AudioError("bad-index", "the index does not say of what type and width its frames are") from None
    if len(sample.media) != count * row_bytes:
        raise AudioError("bad-length", f"{len(sample.media):,} bytes, the index says {count:,} frames of {dim}")
    wrong = count_not_finite(sample.media, dtype, dim)
    if wrong:
        raise AudioError("nan", f"{wrong:,} of {count * dim:,} numbers are NaN or Inf")
