"""The formats of other toolkits, a function for each: (clips, out) -> the manifest, or its folder. A clip is an
utterance of a shard directory; its recording becomes a file, or a member of a tar.

NeMo's paths start at the manifest's folder; the others open paths from where they are started, so theirs are absolute.
Kaldi and SLAM-LLM's multi-task loader read WAV alone; ESPnet, k2 and the others read FLAC, too."""

import io
import itertools
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.audio.decode import SAMPLE_RATE, AudioError, decode, encode_wav, probe
from data_prep.durable import canonical_json, replacing, write_durably, write_whole
from data_prep.progress import Progress
from data_prep.shards.index import ShardIndex
from data_prep.shards.tar import read_sample
from data_prep.utterance import DEFAULTS
from model.errors import UserError

EXTENSIONS = {"OPUS": "opus", "WAVEX": "wav", "RF64": "wav"}  # soundfile's subtypes and formats, where they differ
WENET_TAR = "shards_{:09d}.tar"  # as its make_shard_list.py names them
KALDI_TABLES = {"utt2lang": ("language", ""), "utt2task": ("task", "transcribe")}  # field of Utterance, its default


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


def read_clips(index: ShardIndex, wav: bool, progress: Progress) -> Iterator[Clip]:
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
    """Writes the recording to `out`/audio/NUMBER/KEY.flac, whole or not at all, and returns its absolute path. A folder
    for each shard: file systems grow slow over folders of a million files."""
    path = out / "audio" / f"{clip.shard:06d}" / clip.name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, clip.media)
    return os.path.abspath(path)


def write_tars(
    clips: Iterable[Clip], out: Path, name: str, beside: Callable[[Clip], Mapping[str, bytes]] = lambda clip: {}
) -> Iterator[tuple[Clip, int]]:
    """One tar for each shard, `name` with its number from 0 on; gives each clip and that number back.

    A clip is a member KEY.flac, with KEY.EXTENSION for each that `beside` gives. A tar appears when it is whole; the
    same utterances give the same bytes."""
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


def nemo(clips: Iterable[Clip], out: Path) -> Path:
    """manifest.json and audio files; rows have key, lang, speaker, task and meta where an utterance has them."""
    rows = (_nemo_row(clip, os.path.relpath(save(clip, out), out)) for clip in clips)
    return _manifest(out / "manifest.json", rows)


def nemo_tarred(clips: Iterable[Clip], out: Path) -> Path:
    """tarred_audio_manifest.json and audio_N.tar, one for each shard."""
    tarred = write_tars(clips, out, "audio_{}.tar")
    rows = (_nemo_row(clip, clip.name) | {"shard_id": number} for clip, number in tarred)
    return _manifest(out / "tarred_audio_manifest.json", rows)


def _nemo_row(clip: Clip, path: str) -> dict[str, Any]:
    return {"audio_filepath": path, "duration": clip.seconds, "text": clip.text, "key": clip.key} | _as_lang(clip)


def wenet(clips: Iterable[Clip], out: Path) -> Path:
    """data.list and audio files."""
    rows = ({"key": clip.key, "wav": save(clip, out), "txt": clip.text} | _as_lang(clip) for clip in clips)
    return _manifest(out / "data.list", rows)


def _as_lang(clip: Clip) -> dict[str, Any]:
    """The fields, with the language as NeMo and WeNet call it."""
    return {"lang" if name == "language" else name: value for name, value in clip.fields.items()}


def wenet_shards(clips: Iterable[Clip], out: Path) -> Path:
    """shards.list and tars of KEY.flac, KEY.txt and, for the fields that WeNet has no place for, KEY.json."""

    def beside(clip: Clip) -> dict[str, bytes]:
        return {"txt": clip.text.encode(), "json": canonical_json({"meta": {}, **clip.fields})}

    numbers = dict.fromkeys(number for _, number in write_tars(clips, out, WENET_TAR, beside))
    lines = [os.path.abspath(out / WENET_TAR.format(number)) + "\n" for number in numbers]
    write_durably(out / "shards.list", "".join(lines).encode())
    return out / "shards.list"


def slam_llm(clips: Iterable[Clip], out: Path) -> Path:
    """multitask.jsonl and audio files, with key, source and target for its plain loader, path and task for the
    multi-task one."""

    def row(clip: Clip, path: str) -> dict[str, Any]:
        written = {"key": clip.key, "source": path, "path": path, "target": clip.text, "meta": {}, "task": "ASR"}
        return written | dict(clip.fields)

    return _manifest(out / "multitask.jsonl", (row(clip, save(clip, out)) for clip in clips))


def _manifest(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """A JSON object a line; it appears when all recordings are on disk."""
    with replacing(path) as manifest:
        for row in rows:
            manifest.write(canonical_json(row) + b"\n")
        os.sync()  # all recordings at once: one by one, each takes milliseconds
    return path


def kaldi(clips: Iterable[Clip], out: Path) -> Path:
    """wav.scp, text, utt2spk, spk2utt, utt2dur and, where utterances have them, utt2lang, utt2task and utt2meta.

    All are sorted as LC_ALL=C sorts. utt2meta, which Kaldi does not read, holds as JSON what the others cannot: meta, a
    speaker of several words or of none (Kaldi takes the utterance's name then). Keys stay as they are: where they do
    not begin with the speaker's name, validate_data_dir.sh will complain."""
    lines: dict[str, list[str]] = {}
    speakers: dict[str, list[str]] = {}
    for clip in clips:
        row = _kaldi_row(clip) | {"wav.scp": save(clip, out)}
        for table, value in row.items():
            lines.setdefault(table, []).append(f"{clip.key} {value}".rstrip(" ") + "\n")
        speakers.setdefault(row["utt2spk"], []).append(clip.key)
    lines["spk2utt"] = [f"{speaker} {' '.join(sorted(keys))}\n" for speaker, keys in speakers.items()]
    os.sync()
    for table in sorted(lines):  # wav.scp, without which nothing is imported, is the last
        write_durably(out / table, b"".join(sorted(line.encode() for line in lines[table])))
    return out


def _kaldi_row(clip: Clip) -> dict[str, str]:
    """The clip's value in each table."""
    speaker = clip.fields.get("speaker", "")
    row = {"text": " ".join(clip.text.split()), "utt2spk": _word(speaker) or clip.key, "utt2dur": repr(clip.seconds)}
    exact: dict[str, Any] = {}
    if row["text"] != clip.text:
        exact["text"] = clip.text
    if row["utt2spk"] != speaker:
        exact["speaker"] = speaker
    for table, (field, default) in KALDI_TABLES.items():
        value = clip.fields.get(field, default)
        if value != default:
            row[table] = _word(value) or "-"
            exact |= {field: value} if row[table] != value else {}
    if "meta" in clip.fields:
        exact["meta"] = clip.fields["meta"]
    return row | ({"utt2meta": canonical_json(exact).decode()} if exact else {})


def _word(text: str) -> str:
    """One word of it, as these tables are split at spaces."""
    return "_".join(text.replace("\0", " ").split())
