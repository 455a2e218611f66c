"""The utterances of a shard directory, one by one, and their recordings as files: what all exporters share."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.audio.decode import SAMPLE_RATE, AudioError, decode, encode_wav, probe
from data_prep.durable import canonical_json, write_whole
from data_prep.progress import Progress
from data_prep.shards.index import ShardIndex
from data_prep.shards.tar import read_sample
from data_prep.utterance import DEFAULTS
from model.errors import UserError

AUDIO_FOLDER = "audio"
EXTENSIONS = {"OPUS": "opus", "WAVEX": "wav", "RF64": "wav"}  # soundfile's subtypes and formats, where they differ


@dataclass(frozen=True)
class ExportOptions:
    """What a person may say to an exporter."""

    wav: bool = False
    """16-bit WAV in place of the bytes that lie in the shards, for tools that cannot read FLAC."""


@dataclass(frozen=True)
class Clip:
    """One utterance to be written."""

    key: str
    text: str
    seconds: float
    """Exact: samples / 16000."""
    shard: int
    media: bytes | bytearray
    extension: str
    """Of a file of `media`: flac, wav ..."""
    said: Mapping[str, Any]
    """language, speaker, task and meta, those that differ from Utterance's defaults."""

    @property
    def name(self) -> str:
        return f"{self.key}.{self.extension}"


def clips(index: ShardIndex, options: ExportOptions, progress: Progress) -> Iterator[Clip]:
    """In the order of the index. UserError for a shard that does not hold what its index says, or no audio."""
    with progress:
        for i in range(len(index)):
            sample = read_sample(index, i)
            try:
                media = encode_wav(decode(sample.media)) if options.wav else sample.media
                extension = "wav" if options.wav else _extension(index, media)
            except AudioError as error:
                check = f'run "slam-asr prep check {index.home(int(index.shard[i]))}"'
                raise UserError(f"utterance {sample.key}: {error}; {check}") from None
            said = {name: sample.meta[name] for name in ("language", "speaker", "task", "meta")}
            yield Clip(
                key=sample.key,
                text=sample.meta["text"],
                seconds=int(index.samples[i]) / SAMPLE_RATE,
                shard=int(index.shard[i]),
                media=media,
                extension=extension,
                said={name: value for name, value in said.items() if value != DEFAULTS[name]},
            )
            progress.advance(1)


def save(clip: Clip, out: Path) -> str:
    """Writes the recording to `out`/audio/NUMBER/KEY.flac, whole or not at all; returns that path, from `out` on.

    A folder for each shard: file systems grow slow over folders of a million files.
    """
    folder = out / AUDIO_FOLDER / f"{clip.shard:06d}"
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / clip.name, clip.media)
    return (folder / clip.name).relative_to(out).as_posix()


def line(row: Mapping[str, Any]) -> bytes:
    """A row of a JSONL manifest."""
    return canonical_json(row) + b"\n"


def make_empty_folder(out: Path) -> None:
    """UserError if there is something in it already, or if it cannot be made."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise UserError(f"{out} is not empty; give a new folder, or remove what an export that was stopped left")
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror}; give another folder") from None


def sync_audio() -> None:
    """Puts all recordings on disk before the manifest says that they are there: one by one, each takes milliseconds."""
    os.sync()


def _extension(index: ShardIndex, media: bytes | bytearray) -> str:
    if index.media != "any":
        return index.media
    info = probe(media)  # soundfile's own names, whatever the index says
    return EXTENSIONS.get(info.subtype) or EXTENSIONS.get(info.format, info.format.lower())
