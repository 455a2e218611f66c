"""The utterances of a shard directory, and their recordings as files or as members of tars."""

import io
import itertools
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.audio.decode import SAMPLE_RATE, AudioError, decode, encode_wav, probe
from data_prep.durable import replacing, write_whole
from data_prep.progress import Progress
from data_prep.shards.index import ShardIndex
from data_prep.shards.tar import read_sample
from data_prep.utterance import DEFAULTS
from model.errors import UserError

EXTENSIONS = {"OPUS": "opus", "WAVEX": "wav", "RF64": "wav"}  # soundfile's subtypes and formats, where they differ


@dataclass(frozen=True)
class Clip:
    """One utterance to be written."""

    key: str
    text: str
    seconds: float  # exact: samples / 16000
    shard: int
    media: bytes | bytearray
    name: str  # of a file of `media`: KEY.flac, KEY.wav ...
    fields: Mapping[str, Any]  # language, speaker, task and meta, those that differ from Utterance's defaults


def clips(index: ShardIndex, wav: bool, progress: Progress) -> Iterator[Clip]:
    """In the order of the index. UserError for a shard that does not hold what its index says, or no audio."""
    for i in range(len(index)):
        sample = read_sample(index, i)
        try:
            media = encode_wav(decode(sample.media)) if wav else sample.media
            extension = "wav" if wav else index.media
            if extension == "any":
                info = probe(media)
                extension = EXTENSIONS.get(info.subtype) or EXTENSIONS.get(info.format, info.format.lower())
        except AudioError as error:
            check = f'run "slam-asr prep check {index.home(int(index.shard[i]))}"'
            raise UserError(f"utterance {sample.key}: {error}; {check}") from None
        fields = {name: sample.meta[name] for name in ("language", "speaker", "task", "meta")}
        fields = {name: value for name, value in fields.items() if value != DEFAULTS[name]}
        seconds, name = int(index.samples[i]) / SAMPLE_RATE, f"{sample.key}.{extension}"
        yield Clip(sample.key, sample.meta["text"], seconds, int(index.shard[i]), media, name, fields)
        progress.advance(1)


def save(clip: Clip, out: Path) -> str:
    """Writes the recording to `out`/audio/NUMBER/KEY.flac, whole or not at all, and returns its absolute path.

    A folder for each shard: file systems grow slow over folders of a million files.
    """
    path = out / "audio" / f"{clip.shard:06d}" / clip.name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, clip.media)
    return os.path.abspath(path)


def write_tars(
    clips: Iterable[Clip], out: Path, name: str, beside: Callable[[Clip], Mapping[str, bytes]] = lambda clip: {}
) -> Iterator[tuple[Clip, int]]:
    """One tar for each shard, `name` with its number from 0 on; gives each clip and that number back.

    A clip is a member KEY.flac, with KEY.EXTENSION for each that `beside` gives. A tar appears when it is whole; the
    same utterances give the same bytes.
    """
    for number, (_, group) in enumerate(itertools.groupby(clips, key=lambda clip: clip.shard)):
        path = out / name.format(number)
        with replacing(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for clip in group:
                members = {f"{clip.key}.{extension}": data for extension, data in beside(clip).items()}
                for member, data in {clip.name: clip.media, **members}.items():
                    header = tarfile.TarInfo(member)
                    header.size = len(data)
                    tar.addfile(header, io.BytesIO(data))
                yield clip, number
