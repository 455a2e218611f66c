"""New shards from the utterances of finished ones, media and metadata unchanged: merged, or resharded.

A new shard is an old tar under a new number (linked, or copied), or written from members of old tars, each held against
its CRC. A shard is made by one process, and one that an earlier run had finished is kept. The same directories and
options give the same bytes, on any number of workers; resharded with `random` and the seed and size of a build, the
tars are those that the build would have written."""

import hashlib
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.addresses import is_remote
from data_prep.build.assign import Layout, RunOptions, Sizes, divide
from data_prep.build.workdir import ShardResult, Totals, claim, disk_full_explained, finish, require_room
from data_prep.durable import canonical_json, replacing, write_durably
from data_prep.figures import in_units
from data_prep.progress import Progress
from data_prep.refusals import Note
from data_prep.rework.joined import audio_crcs, concatenate, extension_of, open_all, part_of, place_of, require_own_keys
from data_prep.rework.subset import Subset, choose, fields_of
from data_prep.shards.cache import cache_folder
from data_prep.shards.coverage import AUDIO_CRC
from data_prep.shards.index import BLOCK, FORMAT, VERSION, ShardIndex, columns_path, padded, shard_name
from data_prep.shards.opening import finished_shard, read_document, require_plain, shard_path
from data_prep.shards.tar import RECORD, ShardWriter, read_sample
from data_prep.utterance import KEY, safe_key
from data_prep.workers import Stopped, TaskCounts, run_all
from model.errors import UserError, counted
from model.sample_rate import SAMPLE_RATE

PIECE = 1 << 22  # bytes copied at a time


@dataclass(frozen=True)
class CopyTask:
    """All that a worker needs to make one shard."""

    path: Path
    index: ShardIndex  # of this shard's utterances alone, in their order
    extension: str = ""  # of the media members
    keys: Sequence[str] = ()  # new names, if any
    crcs: Sequence[int | None] = ()  # of features, the CRC of each utterance's audio, where it is known
    columns: Path | None = None  # of the one old shard, if its tar stays as it is
    link: bool = False  # rather than copy such a tar, where that is possible

    def notes(self) -> dict[str, Any]:
        """Written beside the columns: `recipe`, sha256 hex of everything that decides the shard's bytes, and CRCs."""
        index, names = self.index, tuple(self.keys or self.index.key)
        tars = [[shard.sha256, shard.columns_sha256] for shard in index.shards]
        document = [FORMAT, VERSION, self.extension, tars, index.shard.tolist(), index.offset.tolist(), names]
        known = {AUDIO_CRC: list(self.crcs)} if any(crc is not None for crc in self.crcs) else {}
        return {"recipe": hashlib.sha256(canonical_json(document)).hexdigest(), **known}


@dataclass(frozen=True, kw_only=True)
class ReshardOptions(Layout):
    """How the new shards are made. With `shard_bytes` a tar has at most so many, but for one utterance alone, and for
    `stratified` shards, which have about so many."""

    subset: Subset = field(default_factory=Subset)


def merge(
    roots: Sequence[Path | str],
    out: Path,
    copy: bool = False,
    prefixes: Sequence[str] | None = None,
    workers: int = 1,
    overwrite: bool = False,
) -> Totals:
    """Merges `roots`, in their order, into the dataset directory `out`, or goes on with it.

    Links share their bytes with the old directories; where the file system has none, with `copy`, and from an address
    tars are copied and held against their hash. With `prefixes`, one a directory, each key becomes `PREFIX_KEY`; as
    keys are names in the tars, those are written anew.

    UserError: directories that do not fit together, a key in two of them, prefixes that cannot be, `out` taken, a full
    disk, a tar that changed since it was made."""
    run, indexes = RunOptions(workers=workers, overwrite=overwrite), open_all(roots, out)
    renamed = indexes if prefixes is None else _renamed(indexes, prefixes)
    require_own_keys(renamed, "choose other prefixes" if prefixes else "give each directory its own with --prefix-keys")
    index, extension, columns = concatenate(indexes), extension_of(indexes), list[Path]()
    for source in indexes if prefixes is None else ():
        for shard in source.shards:
            if not source.address:
                require_plain(source.root / shard.name)
            columns.append(require_plain(columns_path(source.root / shard.name)))
    keys = [key for source in renamed for key in source.key]
    tasks, ends = [], np.cumsum([shard.utterances for shard in index.shards])[:-1]
    for number, ids in enumerate(np.split(np.arange(len(index)), ends)):
        if not len(ids):  # an empty shard
            continue
        path, part = out / shard_name(len(tasks)), part_of(index, ids)
        if prefixes is None:
            tasks.append(CopyTask(path, part, columns=columns[number], link=not copy))
        else:
            tasks.append(CopyTask(path, part, extension, [keys[i] for i in ids]))
    options: dict[str, Any] = {"merged": [source.digest() for source in indexes]}
    options |= {} if prefixes is None else {"prefixes": list(prefixes)}
    return copy_all(out, index, tasks, options, [], run)


def _renamed(indexes: Sequence[ShardIndex], prefixes: Sequence[str]) -> list[ShardIndex]:
    wrong = [prefix for prefix in prefixes if not KEY.fullmatch(prefix)]
    if wrong or len(prefixes) != len(indexes):
        given = counted(len(prefixes), "prefix", "prefixes")
        fault = f"prefix {wrong[0]!r} is not of A-Z a-z 0-9 _ -" if wrong else given
        directories = counted(len(indexes), "directory", "directories")
        raise UserError(f"{fault} for {directories}; give each one with --prefix-keys NAME,NAME")
    pairs = zip(prefixes, indexes, strict=True)
    return [replace(index, key=[safe_key(f"{prefix}_{key}") for key in index.key]) for prefix, index in pairs]


def reshard(roots: Sequence[Path | str], out: Path, options: ReshardOptions) -> Totals:
    """Writes the utterances of `roots` that `options.subset` keeps into new shards in `out`, or goes on with it.

    UserError: directories that do not fit together, a key in two of them, nothing left, `out` taken, a full disk, a
    shard that is not what its index says."""
    indexes = open_all(roots, out)
    require_own_keys(indexes, "merge them with --prefix-keys first")
    remote = [index for index in indexes if index.address]
    if remote and options.shuffle != "none":  # their utterances lie scattered over all shards
        size, limit = sum(shard.bytes for index in remote for shard in index.shards), cache_folder().limit
        if size > limit:
            raise UserError(
                f"{place_of(remote[0])} has shards of {in_units(size)}, the cache may hold {in_units(limit)}; raise "
                "SLAM_ASR_CACHE_GB, copy the directory to this machine, or give --shuffle none"
            )
    index, extension = concatenate(indexes), extension_of(indexes)
    ids, dropped = choose(index, options.subset)
    crcs = audio_crcs(indexes) if index.kind == "features" else [None] * len(index)
    tasks = [
        CopyTask(out / shard_name(number), part_of(index, part), extension, crcs=[crcs[i] for i in part])
        for number, part in enumerate(plan(index, ids, options))
    ]
    how = {**options.size_option(), "shuffle": options.shuffle, "seed": options.seed}
    return copy_all(out, index, tasks, how, dropped, options)


def plan(index: ShardIndex, ids: np.ndarray, options: ReshardOptions) -> list[np.ndarray]:
    """The utterances of each new shard, in their order; int64."""
    speakers: list[tuple[str, str]] = []
    if options.shuffle == "stratified":
        columns = fields_of(index, ("language", "speaker"))
        speakers = [(columns["language"][i], columns["speaker"][i]) for i in ids]
    room = options.shard_bytes and max(1, options.shard_bytes // RECORD * RECORD - 2 * BLOCK)  # the tar's end has two
    sizes = Sizes((index.samples[ids] / SAMPLE_RATE).tolist(), record_bytes(index)[ids].tolist())
    shards = divide([index.key[i] for i in ids], sizes, speakers, replace(options, shard_bytes=room))
    return [ids[shard] for shard in shards]


def copy_all(
    out: Path, index: ShardIndex, tasks: list[CopyTask], options: dict[str, Any], dropped: list[Note], run: RunOptions
) -> Totals:
    """Makes, or goes on making, the dataset directory `out` of utterances of `index`; `options` are recorded.
    UserError: `out` taken, a full disk, an utterance or a tar that is not what its index says."""
    rewritten, digest, options = [task for task in tasks if not task.columns], index.digest(), index.options | options
    if rewritten:
        digest = hashlib.sha256("".join(task.notes()["recipe"] for task in tasks).encode()).hexdigest()
        options["input"] = digest
    fingerprint = index.fingerprint if index.kind == "features" else {"input": digest}
    with claim(out, fingerprint, options, run.overwrite) as workdir:
        if workdir.finished:
            return workdir.finished
        require_room(out, sum(int(record_bytes(task.index).sum()) for task in rewritten))
        with Progress(sum(len(task.index) for task in tasks), label="copy") as progress:
            results = dict(run_all(make_shard, tasks, run.workers if rewritten else 1, progress))
        frames = sum(int(task.index.frames.sum()) for task in tasks)
        ordered = [results[number] for number in range(len(tasks))]
        return finish(workdir, index.kind, ordered, ("dropped",), dropped, frames=frames)


def make_shard(task: CopyTask, tally: TaskCounts) -> ShardResult:
    """One shard, made, or found finished by an earlier run. Stopped if the whole run stops meanwhile."""
    index = task.index
    with disk_full_explained(task.path.parent):
        if task.columns:
            result = _adopt(task, task.columns)
            tally.add(len(index), kept=result.kept)
            return result
        notes = task.notes()
        info = finished_shard(task.path, notes["recipe"])
        if info:
            tally.add(len(index), kept=True)
            return ShardResult(info, kept=True)
        with ShardWriter(task.path) as writer:
            for i, key in enumerate(task.keys or index.key):
                if tally.stopped:
                    raise Stopped
                sample, samples, frames = read_sample(index, i), int(index.samples[i]), int(index.frames[i])
                writer.add(key, task.extension, bytes(sample.media), sample.meta, samples, frames)
                tally.add(1)
            return ShardResult(writer.close(notes))


def record_bytes(index: ShardIndex) -> np.ndarray:
    """int64 [N], the bytes of each utterance in a tar: two headers, media and metadata, padded."""
    return 2 * BLOCK + padded(index.length) + padded(index.meta_length)


def _adopt(task: CopyTask, columns: Path) -> ShardResult:
    """The one old tar under its new name, with its old columns but for the name in them."""
    (shard,), path = task.index.shards, task.path
    document = read_document(columns)
    described = canonical_json({**document, "shard": {**document["shard"], "name": path.name}})
    info = replace(shard, name=path.name, columns_sha256=hashlib.sha256(described).hexdigest())
    with suppress(OSError):
        if path.stat().st_size == shard.bytes and columns_path(path).read_bytes() == described:
            return ShardResult(info, kept=True)
    columns_path(path).unlink(missing_ok=True)  # first, as it declares the tar finished
    path.unlink(missing_ok=True)
    source = shard_path(task.index, 0)
    try:
        if not task.link or is_remote(task.index.location(0)):
            raise OSError
        os.link(source, path)
    except OSError:  # another file system, or one without links
        with open(source, "rb") as old, replacing(path) as new:
            shutil.copyfileobj(old, new, PIECE)
            old.seek(0)
            if hashlib.file_digest(old, "sha256").hexdigest() != shard.sha256:
                check = f'run "slam-asr prep check {source.parent}"'
                raise UserError(f"{source} has changed since it was made; {check}") from None
    write_durably(columns_path(path), described)
    return ShardResult(info)
