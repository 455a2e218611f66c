"""The formats of other toolkits, a function for each: (clips, out) -> the manifest, or its folder.

NeMo's paths start at the manifest's folder; the others open paths from where they are started, so theirs are absolute.
Kaldi and SLAM-LLM's multi-task loader read WAV alone; ESPnet, k2 and the others read FLAC, too.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_prep.durable import canonical_json, replacing, write_durably
from data_prep.exporters.clips import Clip, save, write_tars

WENET_TAR = "shards_{:09d}.tar"  # as its make_shard_list.py names them
KALDI_TABLES = {"utt2lang": ("language", ""), "utt2task": ("task", "transcribe")}  # field of Utterance, its default


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
    not begin with the speaker's name, validate_data_dir.sh will complain.
    """
    lines: dict[str, list[str]] = {}
    speakers: dict[str, list[str]] = {}
    for clip in clips:
        row = _kaldi_row(clip) | {"wav.scp": save(clip, out)}
        for table, value in row.items():
            lines.setdefault(table, []).append(f"{clip.key} {value}\n")
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
