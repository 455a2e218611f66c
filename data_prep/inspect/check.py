"""Reads every byte of a dataset directory and names what is wrong with it; the audit measures what is read."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from data_prep.addresses import is_remote
from data_prep.audio.decode import SAMPLE_RATE, AudioError, decode_media
from data_prep.figures import counted
from data_prep.inspect.webdataset_count import count_samples
from data_prep.progress import Progress
from data_prep.recordings.tar_members import members
from data_prep.rework.joined import part_of
from data_prep.shards.frames import bytes_per_frame, count_not_finite
from data_prep.shards.index import INDEX_NAME, ShardIndex, ShardInfo, columns_path, meta_path, tar_path
from data_prep.shards.opening import read_document, read_index, read_listing, shard_path
from data_prep.shards.tar import Sample, read_meta, read_sample, walk
from data_prep.workers import Stopped, TaskCounts, run_all
from model.errors import UserError, require_at_least
from model.files import file_sha256

AGAIN = "run the command that built it again"
MEND = f"delete {{}} and {AGAIN}: only what is missing is made"
SECONDS_SLACK = 0.001  # metadata gives seconds to four places
WEBDATASET_SHARDS = 4  # that webdataset reads too, unless it reads all

Result = TypeVar("Result")
Look = Callable[[int, Sample, np.ndarray | None], None]
"""Called with each utterance that could be read: its place in the shard, and float32 [N] of it. A quick check gives no
wave, and a sample whose media is empty."""


@dataclass(frozen=True)
class CheckOptions:
    """How a directory is checked."""

    workers: int = 1
    """Processes. Changes nothing but the time."""
    quick: bool = False
    """Decode nothing: integrity by hash, judgements by metadata and index."""
    full: bool = False
    """webdataset reads all shards, rather than WEBDATASET_SHARDS of them."""

    def __post_init__(self) -> None:
        require_at_least("workers", self.workers, 1)


@dataclass(frozen=True)
class ShardCheck:
    """All that a worker needs to check one shard."""

    root: Path
    info: ShardInfo
    index: ShardIndex | None
    """Of this shard alone; None where the directory's index cannot be read, and only the files are looked at."""
    decode: bool = True
    """Read and decode each utterance; else its metadata alone is read, where the hash of the whole tar is right."""
    webdataset: bool = False
    """Let webdataset read it too."""


def check(root: str | os.PathLike[str], workers: int = 1) -> list[str]:
    """One line for each thing found wrong, none if all is well. UserError only if `root` is no dataset directory.

    Hash of each tar and of its columns; each header against the index; each utterance read and decoded; of some shards
    what webdataset yields.
    """
    return check_all(root, _check_alone, CheckOptions(workers))[1]


def check_all(
    root: str | os.PathLike[str],
    check_one: Callable[[ShardCheck, TaskCounts], tuple[list[str], Result]],
    options: CheckOptions,
) -> tuple[ShardIndex | None, list[str], list[Result]]:
    """The index, all problems, and what `check_one` gives for each shard; no index where it cannot be read.

    UserError for what is no dataset directory, and for an address whose index cannot be read.
    """
    index, wrong = _open_index(root)
    tasks = _tasks(root, index, options)
    results: dict[int, tuple[list[str], Result]] = {}
    if tasks:
        label = f"check {os.path.basename(os.path.normpath(root))}"
        with Progress(0 if index is None else len(index), label=label) as progress:
            results.update(run_all(check_one, tasks, options.workers, progress))
    of_shards = [line for number in sorted(results) for line in results[number][0]]
    problems = [line for line in wrong if not any(other.split(":")[0] in line for other in of_shards)] + of_shards
    return index, problems, [results[number][1] for number in sorted(results)]


def _open_index(root: str | os.PathLike[str]) -> tuple[ShardIndex | None, list[str]]:
    """The index, and what is wrong with the directory as a whole: tars, too, that the index does not list."""
    if is_remote(root):
        return read_index(root), []
    listing = read_listing(Path(root))
    tars = {path.name for path in Path(root).glob(f"shard-{'[0-9]' * 6}.tar")}
    known = {info.name for info in listing} | {Path(info.source).name for info in listing}
    wrong = [f"{name}: {INDEX_NAME} does not list it; delete it" for name in sorted(tars - known)]
    try:
        return read_index(root), wrong
    except UserError as error:
        return None, [*wrong, str(error).split("; run ")[0]]


def _tasks(root: str | os.PathLike[str], index: ShardIndex | None, options: CheckOptions) -> list[ShardCheck]:
    """One a shard."""
    if index is None:
        return [ShardCheck(Path(root), info, None) for info in read_listing(Path(root))]
    for_webdataset = webdataset_shards(index, options)
    return [
        ShardCheck(index.root, info, _of_shard(index, number), not options.quick, number in for_webdataset)
        for number, info in enumerate(index.shards)
    ]


def webdataset_shards(index: ShardIndex, options: CheckOptions) -> list[int]:
    """Numbers of the shards that webdataset reads too: all of ours, or WEBDATASET_SHARDS spread over them."""
    ours = [number for number, info in enumerate(index.shards) if not info.source]
    if options.full:
        return ours
    return [ours[i] for i in np.linspace(0, len(ours) - 1, min(WEBDATASET_SHARDS, len(ours)), dtype=int)]


def _of_shard(index: ShardIndex, number: int) -> ShardIndex:
    """The index of one shard alone, which may hold no utterance."""
    ids = np.arange(*np.searchsorted(index.shard, [number, number + 1]))
    return replace(part_of(index, ids), shards=(index.shards[number],))


def _check_alone(task: ShardCheck, tally: TaskCounts) -> tuple[list[str], None]:
    return check_shard(task, tally), None


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
    problems += count_samples(path, index) if task.webdataset and not problems else []
    problems += _check_headers(index, path)
    for i, key in enumerate(index.key):
        if tally.stopped:
            raise Stopped
        try:
            sample = Sample(key, bytearray(), read_meta(index, i)) if quick else read_sample(index, i)
            problems += [f"{name}, utterance {key}: {fault}" for fault in _faults(index, i, sample.meta)]
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


def _check_file(task: ShardCheck, path: Path) -> list[str]:
    """Of the tar as a whole, and whether its columns are there, which a read index has shown already."""
    info, name = task.info, task.info.label
    mend = "index it again" if info.source else MEND.format(info.name)
    if not path.is_file():
        return [f"{name}: missing; {AGAIN}"]
    if path.stat().st_size != info.bytes:
        return [f"{name}: {path.stat().st_size:,} bytes, the index says {info.bytes:,}; {mend}"]
    columns, metas = columns_path(task.root / info.name), meta_path(task.root / info.name)
    if task.index is None and not columns.is_file():
        return [f"{columns.name}: missing; {AGAIN}"]
    try:
        if info.source and task.index is not None and file_sha256(metas) != read_document(columns).get("meta_sha256"):
            return [f"{metas.name}: its bytes are not those that {columns.name} describes (sha256); {mend}"]
        if file_sha256(path) == info.sha256:
            return []
    except OSError as error:
        return [f"{name}: cannot be read ({error.strerror}); look at its rights and disk"]
    return [f"{name}: its bytes have changed since it was built (sha256); {mend}"]


def _check_headers(index: ShardIndex, path: Path) -> list[str]:
    """The tar's own list of members against the index: in order; of a tar of others, each member where it should be."""
    name = index.shards[0].label
    media = list(zip(index.key, index.offset.tolist(), index.length.tolist(), strict=True))
    metas = list(zip(index.key, index.meta_offset.tolist(), index.meta_length.tolist(), strict=True))
    try:
        if index.shards[0].source:
            places = {(member.offset, member.size) for member in members(path)}
            return [f"{name}, utterance {key}: no member is there" for key, *at in media if tuple(at) not in places]
        listed = list(walk(path))
    except (ValueError, OSError) as error:
        return [f"{name}: {error}"]
    named = [(member.rpartition(".")[0], offset, size) for member, offset, size in listed[::2]]
    if named == media and listed[1::2] == [(f"{key}.json", *at) for key, *at in metas]:
        return []
    return [f"{name}: its {counted(len(listed), 'member')} are not the {2 * len(media):,} that the index lists"]


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
    if index.kind == "audio":
        wave = np.empty(int(index.samples[i]), np.float32)
        decode_media(sample.media, index.media, wave)
        return wave
    count = int(index.frames[i])
    try:
        dtype, dim = index.fingerprint["feature_dtype"], int(index.fingerprint["dim"])
        row_bytes = bytes_per_frame(dim, dtype)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise AudioError("bad-index", "the index does not state of what type and width its frames are") from None
    if len(sample.media) != count * row_bytes:
        raise AudioError("bad-length", f"{len(sample.media):,} bytes, the index says {count:,} frames of {dim}")
    wrong = count_not_finite(sample.media, dtype, dim)
    if wrong:
        raise AudioError("nan", f"{wrong:,} of {count * dim:,} numbers are NaN or Inf")
    return None
