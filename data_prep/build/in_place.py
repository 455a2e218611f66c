"""Existing webdataset tars indexed in place: only metadata is written.

The headers of every tar are read first, and a repeated key is refused. Then each tar is read by one process: hashed,
each transcript read, each recording decoded once, to know its exact length and that it can be used; metadata goes into
`shard-000000.meta`, offsets into the columns beside it.

Training, scoring, features and check read such a directory like any other."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from isal.isal_zlib import crc32

from data_prep.audio import decode as audio
from data_prep.audio.cuts import MAX_SECONDS, refuse_silence
from data_prep.build.assign import RunOptions
from data_prep.build.build import run_bounded
from data_prep.build.prepare import faults_refused, metadata
from data_prep.build.workdir import ShardResult, Totals, claim, disk_full_explained, finish
from data_prep.durable import canonical_json, replacing, write_durably
from data_prep.importers.webdataset import SampleOptions, TarSample, find_tars, key_of, samples_of, utterance_of
from data_prep.progress import Progress
from data_prep.refusals import Note, Refused
from data_prep.shards.index import COLUMNS, FORMAT, VERSION, ShardInfo, columns_path, meta_path, shard_name
from data_prep.shards.opening import finished_shard, read_document
from data_prep.shards.tar import MAX_MEDIA_BYTES, MAX_META_BYTES
from data_prep.text import normalised, require_normaliser, tidy_text
from data_prep.workers import Stopped, TaskCounts
from model.errors import UserError, counted
from model.files import file_sha256


@dataclass(frozen=True, kw_only=True)
class ForeignOptions(RunOptions):
    """How tars of other programs are indexed in place."""

    samples: SampleOptions = field(default_factory=SampleOptions)
    normalise: str = "none"  # "none", or one of text.NORMALISERS
    verify: bool = True
    """Decode every recording; else lengths are calculated from headers, and damage is found when it is trained on."""
    allow_empty: bool = False  # keep utterances with an empty transcript, whatever is heard

    def __post_init__(self) -> None:
        super().__post_init__()
        require_normaliser(self.normalise, "none")

    def shaping(self) -> dict[str, Any]:
        """The options that change what is written."""
        empty = {"allow_empty": True} if self.allow_empty else {}  # else as before there was such an option
        return {"media": "any", "verify": self.verify, "normalise": self.normalise, **empty, **asdict(self.samples)}


@dataclass(frozen=True)
class TarTask:
    """One tar to be indexed."""

    tar: Path
    path: Path  # its name in the index, as of a shard; there is no such file
    source: str  # the tar's path in the index
    options: ForeignOptions


def index_in_place(paths: Sequence[Path], out: Path, options: ForeignOptions) -> Totals:
    """Makes, or goes on making, the dataset directory `out` of tars, and of folders of tars, in order.

    UserError: no tars, one that tar_members.members refuses, a repeated key, too many samples that cannot be used, an
    `out` that holds the tars themselves or something else."""
    tars = find_tars(paths)
    if any(tar.resolve().parent == out.resolve() for tar in tars):
        raise UserError(f"{out} holds the tars themselves; give the index a directory of its own")
    count = _survey(tars, options.samples)
    tasks, folder = [], out.resolve()
    for number, tar in enumerate(tars):
        path = tar.resolve()
        beside = path.is_relative_to(folder.parent)  # or below: both can move together
        source = os.path.relpath(path, folder) if beside else str(path)
        tasks.append(TarTask(tar, out / shard_name(number), source, options))
    states = [(task.source, (stat := task.tar.stat()).st_size, stat.st_mtime_ns) for task in tasks]
    fingerprint = {"input": hashlib.sha256(canonical_json(states)).hexdigest()}
    with claim(out, fingerprint, options.shaping(), options.overwrite) as workdir:
        if workdir.finished:
            return workdir.finished
        progress = Progress(count, label="index")
        results = run_bounded(
            index_tar, tasks, options, count, lambda task, note: f"{task.tar}: {note['sample']}", progress
        )
        unused = dict(sum((Counter(result.unused) for result in results), Counter()))
        return finish(workdir, "audio", results, ("bad", "dropped"), unused=unused)


def _survey(tars: list[Path], options: SampleOptions) -> int:
    """Number of samples. UserError for a key that two of them have."""
    count, owner = 0, {}
    with Progress(len(tars), "tars", label="headers") as progress:
        for tar in tars:
            samples, _ = samples_of(tar, options)
            count += len(samples)
            for sample in filter(TarSample.recordings, samples):
                key = key_of(tar, sample, options)
                if key in owner:
                    both = f"{owner[key][1]!r} in {owner[key][0]} and {sample.name!r} in {tar}"
                    hint = "rename one" if options.prefix_shard else "--prefix-shard puts the tar's name in front"
                    raise UserError(f"key {key} is there twice: {both}; {hint}")
                owner[key] = tar, sample.name
            progress.advance()
    if not owner:
        raise UserError(f"no recording in {counted(len(tars), 'tar')}, as {tars[0]}; are these tars of audio?")
    return count


def index_tar(task: TarTask, tally: TaskCounts) -> ShardResult:
    """One tar, indexed; one that an earlier run had finished, of the same bytes and options, is not decoded again.

    Notes have the name of the `sample`, too. Stopped if the whole work stops meanwhile; UserError as
    tar_members.members, and for an error of the disk."""
    try:
        with open(task.tar, "rb") as file:
            return _index_tar(task, file, tally)
    except OSError as error:
        raise UserError(f"cannot read {task.tar}: {error.strerror}") from None


def _index_tar(task: TarTask, file: BufferedReader, tally: TaskCounts) -> ShardResult:
    options, stem = task.options, task.tar.stem if task.options.samples.prefix_shard else ""
    samples, unused = samples_of(task.tar, options.samples)
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    decides = [FORMAT, VERSION, sha256, stem, asdict(options.samples), options.verify, options.normalise]
    decides += ["allow_empty"] if options.allow_empty else []
    recipe = hashlib.sha256(canonical_json(decides)).hexdigest()
    metas_path, info = meta_path(task.path), finished_shard(task.path, recipe, task.source)
    if info is not None:
        document = read_document(columns_path(task.path))
        if metas_path.is_file() and file_sha256(metas_path) == document.get("meta_sha256"):
            tally.add(len(samples), kept=True)
            return ShardResult(info, document["bad"], unused=dict(unused), kept=True)
    columns: dict[str, list[Any]] = {"key": [], **{name: [] for name in COLUMNS}}
    bad: list[Note] = []
    columns_path(task.path).unlink(missing_ok=True)  # they would describe metadata that are about to go
    with disk_full_explained(task.path.parent), replacing(metas_path) as metas:
        for sample in samples:
            if tally.stopped:
                raise Stopped
            try:
                _add(columns, metas, file, sample, task)
            except Refused as error:
                note = {"key": key_of(task.tar, sample, options.samples), "sample": sample.name}
                bad.append(note | {"reason": error.reason, "message": str(error)})
            tally.add(1)
    shard = {"name": task.path.name, "bytes": file.seek(0, os.SEEK_END), "sha256": sha256}
    shard |= {"utterances": len(columns["key"]), "seconds": round(sum(columns["samples"]) / audio.SAMPLE_RATE, 4)}
    notes = {"recipe": recipe, "bad": bad, "meta_sha256": file_sha256(metas_path)}
    data = canonical_json({"shard": shard, "columns": columns, **notes})
    write_durably(columns_path(task.path), data)
    info = ShardInfo(**shard, columns_sha256=hashlib.sha256(data).hexdigest(), source=task.source)
    return ShardResult(info, bad, unused=dict(unused))


def _add(columns: dict[str, list[Any]], metas: BinaryIO, file: BinaryIO, sample: TarSample, task: TarTask) -> None:
    """Adds one utterance to the columns and its metadata to their file; Refused if it cannot be used."""
    utterance = utterance_of(task.tar, file.fileno(), sample, task.options.samples)
    written = tidy_text(utterance.text, task.options.allow_empty)
    text = normalised(written, task.options.normalise)
    recording = sample.recordings()[0]
    if not 0 < recording.size <= MAX_MEDIA_BYTES:
        raise Refused("bad-size", f"{recording.size:,} bytes, a recording has 1 to {MAX_MEDIA_BYTES:,}")
    file.seek(recording.offset)
    media = file.read(recording.size)
    count = _length(media, task.options.verify, not written)
    data = canonical_json(metadata(utterance, written, text, count))
    if len(data) > MAX_META_BYTES:
        raise Refused("bad-json", f"{len(data):,} bytes of metadata, at most {MAX_META_BYTES:,} are kept")
    row = {"key": utterance.key, "offset": recording.offset, "length": recording.size, "samples": count, "frames": 0}
    row |= {"crc32": crc32(data, crc32(media)), "meta_offset": metas.tell(), "meta_length": len(data)}
    row |= {"characters": len(text), "text_bytes": len(text.encode())}
    metas.write(data)
    for name, values in columns.items():
        values.append(row[name])


def _length(media: bytes, verify: bool, is_empty: bool) -> int:
    """Samples at 16 kHz. Refused for what cannot be decoded, and for silence unless the transcript `is_empty`."""
    with faults_refused():
        info = audio.probe(media)
        if verify or info.format == "MP3":  # its header only estimates the length
            wave = audio.decode(media)
            if not is_empty:
                refuse_silence(wave)
            return len(wave)
    count = audio.resampled_count(info.frames, info.rate)
    if not audio.MIN_SAMPLES <= count <= MAX_SECONDS * audio.SAMPLE_RATE:
        limits = f"{audio.MIN_SAMPLES} samples at 16 kHz to {MAX_SECONDS:,} s"
        raise Refused("bad-length", f"{info.seconds:,.2f} s, an utterance has {limits}")
    return count
