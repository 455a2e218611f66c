"""One tar of others indexed: its samples' metadata into `shard-000000.meta`, their places into the columns beside it.

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
from data_prep.audio.cuts import MAX_SECONDS, refuse_silence
from data_prep.audio.decode import AudioError
from data_prep.build import workdir as workplace
from data_prep.build.prepare import FREE_CHARACTERS, MAX_CHARACTERS_PER_SECOND
from data_prep.durable import canonical_json, replacing, write_durably
from data_prep.importers.webdataset import SampleOptions, TarSample, key_of, samples_of, utterance_of
from data_prep.refusals import Note, Refused
from data_prep.shards.columns import COLUMNS
from data_prep.shards.files import finished_shard, read_document
from data_prep.shards.index import FORMAT, VERSION, ShardInfo, columns_path, meta_path
from data_prep.shards.tar import MAX_MEDIA_BYTES, MAX_META_BYTES
from data_prep.text import normalised, tidy_text
from data_prep.utterance import Utterance
from data_prep.workers import Stopped, TaskCounts
from model.errors import UserError


@dataclass(frozen=True)
class TarTask:
    """All that a worker needs to index one tar."""

    tar: Path
    shard: Path
    """What it is called in the index; there is no such file."""
    source: str
    """Where the tar is, as the index says it."""
    samples: SampleOptions
    verify: bool
    normalise: str


@dataclass(frozen=True)
class TarResult:
    """What a worker gives back."""

    info: ShardInfo
    bad: list[Note]
    """Key, reason, message, and the name of the sample in the tar."""
    unused: dict[str, int]
    """Number of members that are of no use, by their last extension."""
    kept: bool = False
    """Found finished."""


def index_tar(task: TarTask, tally: TaskCounts) -> TarResult:
    """One tar, indexed or found finished. Stopped if the whole work stops meanwhile; UserError as archives.members."""
    samples, unused = samples_of(task.tar, task.samples)
    with _tar_of_others(task.tar) as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        recipe = _recipe(task, sha256)
        finished = _finished(task, recipe, unused)
        if finished is not None:
            tally.add(len(samples), kept=True)
            return finished
        columns: dict[str, list[Any]] = {"key": [], **{name: [] for name in COLUMNS}}
        bad: list[Note] = []
        columns_path(task.shard).unlink(missing_ok=True)  # they would describe metadata that are about to go
        with workplace.disk_full_explained(task.shard.parent), replacing(meta_path(task.shard)) as metas:
            for sample in samples:
                if tally.stopped:
                    raise Stopped
                try:
                    _add(columns, metas, file, sample, task)
                except Refused as error:
                    note = {"key": key_of(task.tar, sample, task.samples), "sample": sample.name}
                    bad.append(note | {"reason": error.reason, "message": str(error)})
                tally.add(1)
        meta_sha256 = _hash(meta_path(task.shard))
        tar_bytes = file.seek(0, os.SEEK_END)
    shard = {"name": task.shard.name, "bytes": tar_bytes, "sha256": sha256}
    shard |= {"utterances": len(columns["key"]), "seconds": round(sum(columns["samples"]) / audio.SAMPLE_RATE, 4)}
    document = {"shard": shard, "columns": columns, "meta_sha256": meta_sha256, "recipe": recipe, "bad": bad}
    data = canonical_json(document)
    write_durably(columns_path(task.shard), data)
    columns_sha256 = hashlib.sha256(data).hexdigest()
    return TarResult(ShardInfo(**shard, columns_sha256=columns_sha256, source=task.source), bad, dict(unused))


@contextmanager
def _tar_of_others(path: Path) -> Iterator[BufferedReader]:
    """Opened; UserError for what goes wrong with the disk it is on."""
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _finished(task: TarTask, recipe: str, unused: dict[str, int]) -> TarResult | None:
    info = finished_shard(task.shard, recipe, task.source)
    if info is None:
        return None
    document, metas = read_document(columns_path(task.shard)), meta_path(task.shard)
    if not metas.is_file() or _hash(metas) != document.get("meta_sha256"):
        return None
    return TarResult(info, document["bad"], dict(unused), kept=True)


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _add(columns: dict[str, list[Any]], metas: BinaryIO, file: BinaryIO, sample: TarSample, task: TarTask) -> None:
    """One utterance into the columns and its metadata into their file; Refused if it cannot be used."""
    utterance = utterance_of(task.tar, file.fileno(), sample, task.samples)
    written = tidy_text(utterance.text)
    recording = sample.recordings()[0]
    if not 0 < recording.size <= MAX_MEDIA_BYTES:
        raise Refused("bad-size", f"{recording.size:,} bytes, a recording has 1 to {MAX_MEDIA_BYTES:,}")
    file.seek(recording.offset)
    media = file.read(recording.size)
    count = _length(media, task.verify)
    if len(written) > FREE_CHARACTERS + MAX_CHARACTERS_PER_SECOND * count / audio.SAMPLE_RATE:
        raise Refused("text-too-long", f"{len(written):,} characters in {count / audio.SAMPLE_RATE:.2f} s of speech")
    text = normalised(written, task.normalise)
    data = canonical_json(_meta(utterance, written, text, count))
    if len(data) > MAX_META_BYTES:
        raise Refused("bad-json", f"{len(data):,} bytes of metadata, at most {MAX_META_BYTES:,} are kept")
    row = {"key": utterance.key, "offset": recording.offset, "length": recording.size, "samples": count, "frames": 0}
    row |= {"crc32": crc32(data, crc32(media)), "meta_offset": metas.tell(), "meta_length": len(data)}
    row |= {"characters": len(text), "text_bytes": len(text.encode())}
    metas.write(data)
    for name, values in columns.items():
        values.append(row[name])


def _meta(utterance: Utterance, written: str, text: str, count: int) -> dict[str, Any]:
    meta: dict[str, Any] = {"text": text, "seconds": round(count / audio.SAMPLE_RATE, 4), "meta": dict(utterance.meta)}
    meta |= {"language": utterance.language, "speaker": utterance.speaker, "task": utterance.task}
    return meta if text == written else meta | {"raw_text": written}


def _length(media: bytes, verify: bool) -> int:
    """Samples at 16 kHz. Refused for what cannot be decoded."""
    try:
        info = audio.probe(media)
        if verify or info.format == "MP3":  # its header only estimates the length
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
    stem = task.tar.stem if task.samples.prefix_shard else ""
    recipe = [FORMAT, VERSION, sha256, stem, asdict(task.samples), task.verify, task.normalise]
    return hashlib.sha256(canonical_json(recipe)).hexdigest()
