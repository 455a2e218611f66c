"""Kaldi: wav.scp, text, utt2spk, spk2utt, utt2dur, utt2lang and utt2task where an utterance says them, and utt2meta.

All are sorted as LC_ALL=C sorts. utt2meta, which Kaldi does not read, holds as JSON what the others cannot: meta, a
speaker of several words or of none (Kaldi's own habit is the utterance's name then). Paths are absolute, as Kaldi opens
them from where it is started; it reads WAV alone: export with `wav` for it, others (ESPnet, k2) read FLAC too. Keys
stay as they are: where they do not begin with the speaker's name, validate_data_dir.sh will say so.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from data_prep.durable import canonical_json, write_durably
from data_prep.exporters.clips import Clip, ExportOptions, clips, save, sync_audio
from data_prep.progress import Progress
from data_prep.shards.index import ShardIndex

TABLES = {"utt2lang": ("language", ""), "utt2task": ("task", "transcribe")}  # field of Utterance, and its default


def export(index: ShardIndex, out: Path, options: ExportOptions, progress: Progress) -> Path:
    lines: dict[str, list[str]] = {}
    speakers: dict[str, list[str]] = {}
    for clip in clips(index, options, progress):
        path = os.path.abspath(out / save(clip, out))
        row = _row(clip) | {"wav.scp": path}
        for table, value in row.items():
            lines.setdefault(table, []).append(f"{clip.key} {value}\n")
        speakers.setdefault(row["utt2spk"], []).append(clip.key)
    lines["spk2utt"] = [f"{speaker} {' '.join(sorted(keys))}\n" for speaker, keys in speakers.items()]
    sync_audio()
    for table in sorted(lines):  # wav.scp, without which nothing is imported, is the last
        write_durably(out / table, b"".join(sorted(line.encode() for line in lines[table])))
    return out


def _row(clip: Clip) -> dict[str, str]:
    """What each table says of the clip, after its key."""
    speaker = clip.said.get("speaker", "")
    row = {"text": " ".join(clip.text.split()), "utt2spk": _word(speaker) or clip.key, "utt2dur": repr(clip.seconds)}
    exact: dict[str, Any] = {}
    if row["text"] != clip.text:
        exact["text"] = clip.text
    if row["utt2spk"] != speaker:
        exact["speaker"] = speaker
    for table, (field, default) in TABLES.items():
        value = clip.said.get(field, default)
        if value != default:
            row[table] = _word(value) or "-"
            exact |= {field: value} if row[table] != value else {}
    if "meta" in clip.said:
        exact["meta"] = clip.said["meta"]
    return row | ({"utt2meta": canonical_json(exact).decode()} if exact else {})


def _word(text: str) -> str:
    """One word of it, as these tables are split at spaces."""
    return "_".join(text.replace("\0", " ").split())
