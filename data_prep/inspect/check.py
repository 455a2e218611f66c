"""Reads every byte of a dataset directory and names what is wrong with it; the audit measures what is read."""

import gc
import os
import tarfile
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data_prep.addresses import is_remote
from data_prep.audio.decode import SAMPLE_RATE, AudioError, decode_media
from data_prep.inspect.audit.measures import Measured, Measurer, joined
from data_prep.progress import Progress
from data_prep.recordings.tar_members import members
from data_prep.rework.joined import part_of
from data_prep.shards.frames import bytes_per_frame, count_not_finite
from data_prep.shards.index import INDEX_NAME, ShardIndex, ShardInfo, columns_path, meta_path, tar_path
from data_prep.shards.opening import SECONDS_SLACK, read_document, read_index, read_listing, shard_path
from data_prep.shards.tar import Sample, read_meta, read_sample, walk
from data_prep.workers import Stopped, TaskCounts, run_all
from model.errors import UserError, counted, require_at_least
from model.files import file_sha256

AGAIN = "run the command that built it again"
WEBDATASET_SHARDS = 4  # that webdataset reads too, unless it reads all


@dataclass(frozen=True)
class CheckOptions:
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
    root: Path
    info: ShardInfo
    index: ShardIndex | None  # of this shard alone; None where the directory's index cannot be read
    decode: bool = True  # each utterance; else its metadata alone is read, where the hash of the whole tar is right
    webdataset: bool = False  # let webdataset read it too


def check_all(root: str | os.PathLike[str], options: CheckOptions) -> tuple[ShardIndex | None, list[str], Measured]:
    """The index, one line for each thing found wrong, and what was measured; no index where it cannot be read.

    Hash of each tar and of its columns; each header against the index; each utterance read and decoded; of some shards
    what webdataset yields. UserError for what is no dataset directory, and for an address whose index cannot be read.
    """
    index, problems = _open_index(root)
    results: dict[int, tuple[list[str], Measured]] = {}
    if index is None:
        tasks, firsts = [ShardCheck(Path(root), info, None) for info in read_listing(Path(root))], []
    else:
        tasks, for_webdataset = [], webdataset_shards(index, options)
        firsts = np.searchsorted(index.shard, np.arange(len(index.shards) + 1)).tolist()
        for number, info in enumerate(index.shards):
            part = part_of(index, np.arange(firsts[number], firsts[number + 1]))
            part = replace(part, shards=(info,))  # also where it has no utterance
            tasks.append(ShardCheck(index.root, info, part, not options.quick, number in for_webdataset))
    if tasks:
        label = f"check {os.path.basename(os.path.normpath(root))}"
        with Progress(0 if index is None else len(index), label=label) as progress:
            results.update(run_all(check_shard, tasks, options.workers, progress))
    of_shards = [line for number in sorted(results) for line in results[number][0]]
    problems = [line for line in problems if not any(other.split(":")[0] in line for other in of_shards)]
    measured = joined(zip((results[number][1] for number in sorted(results)), firsts, strict=False))
    return index, problems + of_shards, measured


def _open_index(root: str | os.PathLike[str]) -> tuple[ShardIndex | None, list[str]]:
    """The index, and what is wrong with the directory as a whole: tars, too, that the index does not list."""
    if is_remote(root):
        return read_index(root), []
    listing = read_listing(Path(root))
    tars = {path.name for path in Path(root).glob(f"shard-{'[0-9]' * 6}.tar")}
    known = {info.name for info in listing} | {Path(info.source).name for info in listing}
    problems = [f"{name}: {INDEX_NAME} does not list it; delete it" for name in sorted(tars - known)]
    try:
        return read_index(root), problems
    except UserError as error:
        return None, [*problems, str(error).split("; run ")[0]]


def webdataset_shards(index: ShardIndex, options: CheckOptions) -> list[int]:
    """Numbers of the shards that webdataset reads too: all of ours, or WEBDATASET_SHARDS spread over them."""
    ours = [number for number, info in enumerate(index.shards) if not info.source]
    if options.full:
        return ours
    return [ours[i] for i in np.linspace(0, len(ours) - 1, min(WEBDATASET_SHARDS, len(ours)), dtype=int)]


def check_shard(task: ShardCheck, tally: TaskCounts) -> tuple[list[str], Measured]:
    """One line for each thing wrong with a shard, and the measures of the utterances that could be read. Stopped if the
    whole check stops meanwhile."""
    index, measurer = task.index, Measurer(task.index)
    try:
        path = tar_path(task.root, task.info) if index is None else shard_path(index, 0)  # which may have to be fetched
    except UserError as error:
        tally.add(task.info.utterances)
        return [f"{task.info.label}: {error}"], measurer.measured()
    problems = _check_file(task, path)
    if index is not None:
        quick = not (task.decode or problems or task.info.source)
        problems += count_samples(path, index) if task.webdataset and not problems else []
        problems += _check_headers(index, path)
        for i in range(len(index)):
            if tally.stopped:
                raise Stopped
            problems += _check_utterance(task, index, i, quick, measurer)
            tally.add(1)
    return problems, measurer.measured()


def _check_utterance(task: ShardCheck, index: ShardIndex, i: int, quick: bool, measurer: Measurer) -> list[str]:
    """What is wrong with one, which is measured if it can be read; `quick`: by its metadata alone."""
    key, problems = f"{task.info.label}, utterance {index.key[i]}", []
    try:
        sample = Sample(index.key[i], bytearray(), read_meta(index, i)) if quick else read_sample(index, i)
        if len(sample.meta["text"]) != index.characters[i]:
            problems.append(f"{key}: its transcript is not as long as the index says")
        stated, seconds = sample.meta["seconds"], float(index.samples[i]) / SAMPLE_RATE
        if abs(stated - seconds) > SECONDS_SLACK:
            problems.append(f"{key}: its metadata says {str(stated)[:20]} s, the index {seconds:.4f} s")
        measurer.look(i, sample, _decoded(index, i, sample) if task.decode else None)
    except AudioError as error:
        problems.append(f"{key}: {error}")
    except UserError as error:
        problems.append(str(error).split("; run ")[0])
    return problems


def _check_file(task: ShardCheck, path: Path) -> list[str]:
    """Of the tar as a whole, and whether its columns are there, which a read index has shown already."""
    info, name = task.info, task.info.label
    mend = "index it again" if info.source else f"delete {info.name} and {AGAIN}: only what is missing is made"
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


def count_samples(tar: Path, index: ShardIndex) -> list[str]:
    """One line if webdataset itself yields other samples of the tar than `index`, which is of this shard alone, lists.

    A sample must have its utterance's key and just two members, KEY.json and KEY.flac (or another medium). They stay
    bytes: nothing is decoded, and nothing unpickled."""
    import webdataset
    from webdataset.compat import WebDataset

    webdataset.utils.enforce_security = True  # no pipes, no pickles  # pyright: ignore[reportAttributeAccessIssue]
    number, unlike, failure = 0, "", ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves its files to the garbage collector
        dataset = WebDataset([str(tar)], shardshuffle=False, nodesplitter=None, workersplitter=None, empty_check=False)
        try:
            for number, sample in enumerate(dataset, 1):
                key, members = sample["__key__"], sorted(name for name in sample if not name.startswith("__"))
                wanted = index.key[number - 1] if number <= len(index) else None
                if not unlike and (key != wanted or len(members) != 2 or "json" not in members):
                    unlike = f", number {number:,} of them is {key} of {' and '.join(members)}"
        except (ValueError, OSError, tarfile.TarError) as error:
            failure = f", then fails: {' '.join(str(error).split())[:200]}"
        if failure:
            del dataset
            gc.collect()  # of the file, which the error's traceback holds
    if not (failure or unlike) and number == len(index):
        return []
    yields = f"webdataset yields {counted(number, 'sample')}{unlike}{failure}"
    return [f"{index.shards[0].label}: {yields}; the index lists {len(index):,}"]


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
