"""One tar indexed in place: its samples' metadata in `shard-000000.meta`, their offsets in the columns beside it.

The tar is hashed, each transcript read, each recording decoded, to know its exact length and that it can be used. A
tar that was finished before, with the same bytes and options, is not decoded again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from isal.isal_zlib import crc32

from data_prep.audio import decode as audio
from data_prep.audio.cuts import MAX_SECONDS
from data_prep.audio.decode import AudioError
from data_prep.audio.silence import refuse_silence
from data_prep.build.options import ForeignOptions
from data_prep.build.prepare import metadata
from data_prep.build.room import disk_full_explained
from data_prep.build.write import ShardResult
from data_prep.durable import canonical_json, replacing, write_durably
from data_prep.importers.webdataset import TarSample, key_of, samples_of, utterance_of
from data_prep.refusals import Note, Refused
from data_prep.shards.columns import COLUMNS
from data_prep.shards.index import FORMAT, VERSION, ShardInfo, columns_path, finished_shard, meta_path, read_document
from data_prep.shards.tar import MAX_MEDIA_BYTES, MAX_META_BYTES
from data_prep.text import normalised, tidy_text
from data_prep.workers import InPlace, Stopped, Tally
from model.errors import UserError
from model.files import file_sha256


@dataclass(frozen=True)
class TarTask:
    """All that a worker needs to index one tar."""

    tar: Path
    path: Path
    """Its name in the index, as of a shard; there is no such file."""
    source: str
    """The tar's path in the index."""
    options: ForeignOptions


def index_tar(task: TarTask, tally: Tally | InPlace) -> ShardResult:
    """One tar, indexed, or found finished by an earlier run. Notes have the name of the `sample`, too.

    Stopped if the whole work stops meanwhile; UserError as tar_members.members.
    """
    samples, unused = samples_of(task.tar, task.options.samples)
    with _opened(task.tar) as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        recipe = _recipe(task, sha256)
        finished = _finished(task, recipe, unused)
        if finished is not None:
            tally.add(len(samples), kept=True)
            return finished
        columns: dict[str, list[Any]] = {"key": [], **{name: [] for name in COLUMNS}}
        bad: list[Note] = []
        columns_path(task.path).unlink(missing_ok=True)  # they would describe metadata that are about to go
        with disk_full_explained(task.path.parent), replacing(meta_path(task.path)) as metas:
            for sample in samples:
                if tally.stopped:
                    raise Stopped
                try:
                    _add(columns, metas, file, sample, task)
                except Refused as error:
                    note = {"key": key_of(task.tar, sample, task.options.samples), "sample": sample.name}
                    bad.append(note | {"reason": error.reason, "message": str(error)})
                tally.add(1)
        tar_bytes = file.seek(0, os.SEEK_END)
    shard = {"name": task.path.name, "bytes": tar_bytes, "sha256": sha256}
    shard |= {"utterances": len(columns["key"]), "seconds": round(sum(columns["samples"]) / audio.SAMPLE_RATE, 4)}
    document = {"shard": shard, "columns": columns, "recipe": recipe, "bad": bad}
    data = canonical_json(document | {"meta_sha256": file_sha256(meta_path(task.path))})
    write_durably(columns_path(task.path), data)
    info = ShardInfo(**shard, columns_sha256=hashlib.sha256(data).hexdigest(), source=task.source)
    return ShardResult(info, bad, unused=dict(unused))


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """The file; UserError for an error of the disk it is on."""
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _finished(task: TarTask, recipe: str, unused: dict[str, int]) -> ShardResult | None:
    info = finished_shard(task.path, recipe, task.source)
    if info is None:
        return None
    document, metas = read_document(columns_path(task.path)), meta_path(task.path)
    if not metas.is_file() or file_sha256(metas) != document.get("meta_sha256"):
        return None
    return ShardResult(info, document["bad"], unused=dict(unused), kept=True)


def _add(columns: dict[str, list[Any]], metas: BinaryIO, file: BinaryIO, sample: TarSample, task: TarTask) -> None:
    """Adds one utterance to the columns and its metadata to their file; Refused if it cannot be used."""
    utterance = utterance_of(task.tar, file.fileno(), sample, task.options.samples)
    written = tidy_text(utterance.text)
    text = normalised(written, task.options.normalise)
    recording = sample.recordings()[0]
    if not 0 < recording.size <= MAX_MEDIA_BYTES:
        raise Refused("bad-size", f"{recording.size:,} bytes, a recording has 1 to {MAX_MEDIA_BYTES:,}")
    file.seek(recording.offset)
    media = file.read(recording.size)
    count = _length(media, task.options.verify)
    data = canonical_json(metadata(utterance, written, text, count))
    if len(data) > MAX_META_BYTES:
        raise Refused("bad-json", f"{len(data):,} bytes of metadata, at most {MAX_META_BYTES:,} are kept")
    row = {"key": utterance.key, "offset": recording.offset, "length": recording.size, "samples": count, "frames": 0}
    row |= {"crc32": crc32(data, crc32(media)), "meta_offset": metas.tell(), "meta_length": len(data)}
    row |= {"characters": len(text), "text_bytes": len(text.encode())}
    metas.write(data)
    for name, values in columns.items():
        values.append(row[name])


def _length(media: bytes, verify: bool) -> int:
    """Samples at 16 kHz. Refused for what cannot be decoded."""
    try:
        info = audio.probe(media)
        if verify or info.format == "MP3":  # its header only estimates the length
            with audio.one_thread():
                wave = audio.decode(media)
            refuse_silence(wave)
            return len(wave)
    except AudioError as error:
        raise Refused(error.reason, str(error)) from None
    count = audio.resampled_count(info.frames, info.rate)
    if not audio.MIN_SAMPLES <= count <= MAX_SECONDS * audio.SAMPLE_RATE:
        limits = f"{audio.MIN_SAMPLES} samples at 16 kHz to {MAX_SECONDS:,} s"
        raise Refused("bad-length", f"{info.seconds:,.2f} s, an utterance has {limits}")
    return count


def _recipe(task: TarTask, sha256: str) -> str:
    """sha256 hex of everything that decides what is written for a tar."""
    options, samples = task.options, task.options.samples
    stem = task.tar.stem if samples.prefix_shard else ""
    recipe = [FORMAT, VERSION, sha256, stem, asdict(samples), options.verify, options.normalise]
    return hashlib.sha256(canonical_json(recipe)).hexdigest()
