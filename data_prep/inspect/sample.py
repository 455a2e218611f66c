"""A few utterances of a shard directory as files to listen to, with a page that plays them beside their transcripts."""

from __future__ import annotations

import html
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.audio import decode as audio
from data_prep.audio.decode import SAMPLE_RATE, AudioError
from data_prep.build.assign import key_hash
from data_prep.durable import temporary_name
from data_prep.figures import counted, in_hours
from data_prep.rework.joined import place_of
from data_prep.rework.subset import fields_of
from data_prep.shards.index import ShardIndex
from data_prep.shards.tar import read_sample
from model.errors import UserError, require_at_least, require_known

PLAYED = {"FLAC": "flac", "WAV": "wav", "OGG": "ogg", "MP3": "mp3"}  # by browsers; all else becomes FLAC
PICKS = ("random", "longest", "shortest")
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }}
body {{ margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }}
section {{ border-top: 1px solid #8886; padding: .8rem 0; }}
audio {{ display: block; width: 100%; max-width: 30rem; }}
p {{ margin: .4rem 0; }}
.about {{ color: #888; font-size: .85rem; overflow-wrap: anywhere; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p class="about">{about}</p>
{sections}
</body>
</html>
"""
SECTION = """<section>
<audio controls preload="none" src="{file}"></audio>
<p dir="auto">{text}</p>
<p class="about">{about}</p>
</section>"""


@dataclass(frozen=True)
class SampleChoice:
    """Which utterances, and how they are written."""

    number: int = 20
    """Utterances; all where there are fewer."""
    seed: int = 0
    order: str = "random"
    """One of PICKS."""
    by: str = ""
    """A field of the metadata: its values take turns, so that rare ones are heard too."""
    keys: frozenset[str] | None = None
    """Just these instead."""
    wav: bool = False
    """Decoded to 16-bit WAV, rather than as they lie in the shard."""

    def __post_init__(self) -> None:
        require_at_least("number", self.number, 1)
        require_known("order", self.order, PICKS)


@dataclass(frozen=True)
class SampleFile:
    """One of the files."""

    key: str
    file: str
    seconds: float
    meta: dict[str, Any]


def write_sample(index: ShardIndex, out: Path, options: SampleChoice) -> list[SampleFile]:
    """Writes the clips, index.html and transcripts.tsv to the new folder `out`, which appears whole or not at all.

    UserError: features, a key that is not there, `out` taken, an utterance that cannot be read.
    """
    if index.kind != "audio":
        raise UserError(
            f"{place_of(index)} holds {index.kind}, there is nothing to hear; give the audio it was made from"
        )
    ids, out = pick(index, options), Path(os.path.abspath(out))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already and not empty; give another folder")
    work = temporary_name(out)
    try:
        work.mkdir(parents=True)
        clips = [_write_clip(index, i, work, options.wav) for i in ids]
        (work / "transcripts.tsv").write_text(_table(clips), encoding="utf-8")
        (work / "index.html").write_text(_page(index, clips), encoding="utf-8")
        os.replace(work, out)
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror}; give another folder, or make room") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return clips


def pick(index: ShardIndex, options: SampleChoice) -> list[int]:
    """The numbers of the utterances, in the order in which they are shown."""
    if options.keys is not None:
        place = {key: i for i, key in enumerate(index.key)}
        missing = sorted(options.keys - place.keys())
        if missing:
            more = f" nor {len(missing) - 1:,} more" if len(missing) > 1 else ""
            raise UserError(f"{place_of(index)} has no utterance {missing[0]}{more}; see the keys in its shards")
        return sorted(place[key] for key in options.keys)
    if options.order == "random":
        ordered = sorted(range(len(index)), key=lambda i: key_hash(options.seed, index.key[i]))
    else:
        sign = -1 if options.order == "longest" else 1
        ordered = np.argsort(sign * index.samples, kind="stable").tolist()
    return (_in_turns(ordered, fields_of(index, [options.by])[options.by]) if options.by else ordered)[: options.number]


def _in_turns(ordered: Sequence[int], values: Sequence[str]) -> list[int]:
    """The first of each value, then the second of each, ...; otherwise as they were."""
    met: dict[str, int] = {}
    turns = []
    for i in ordered:
        met[values[i]] = turn = met.get(values[i], 0) + 1
        turns.append(turn)
    return [i for _, i in sorted(zip(turns, ordered, strict=True), key=lambda pair: pair[0])]


def _write_clip(index: ShardIndex, i: int, folder: Path, wav: bool) -> SampleFile:
    sample = read_sample(index, i)
    try:
        extension, data = _playable(sample.media, wav)
    except AudioError as error:
        raise UserError(f'utterance {sample.key}: {error}; run "slam-asr prep check {place_of(index)}"') from None
    file = f"{sample.key}.{extension}"
    (folder / file).write_bytes(data)
    return SampleFile(sample.key, file, int(index.samples[i]) / SAMPLE_RATE, sample.meta)


def _playable(media: bytearray, wav: bool) -> tuple[str, bytes | bytearray]:
    """(extension, bytes) of a clip."""
    if wav:
        return "wav", audio.encode_wav(audio.decode(media))
    kind = PLAYED.get(audio.probe(media).format)
    return (kind, media) if kind else ("flac", audio.encode_flac(audio.decode(media)))


def _table(clips: list[SampleFile]) -> str:
    """One line each under a header; tabs and line ends in a field become spaces."""
    rows = [["file", "seconds", "speaker", "language", "text"]]
    for clip in clips:
        meta = clip.meta
        rows.append([clip.file, f"{clip.seconds:.2f}", meta["speaker"], meta["language"], meta["text"]])
    return "".join("\t".join(" ".join(str(field).split()) for field in row) + "\n" for row in rows)


def _page(index: ShardIndex, clips: list[SampleFile]) -> str:
    """Plain HTML, without a script and without anything from elsewhere."""
    sections = "\n".join(
        SECTION.format(
            file=html.escape(clip.file), text=html.escape(clip.meta["text"]), about=html.escape(_about(clip))
        )
        for clip in clips
    )
    title = html.escape(place_of(index).rstrip("/").rpartition("/")[2])
    about = html.escape(f"{len(clips):,} of {counted(len(index), 'utterance')}, {in_hours(index.seconds)} in all")
    return PAGE.format(title=title, about=about, sections=sections)


def _about(clip: SampleFile) -> str:
    said = [f"{name} {clip.meta[name]}" for name in ("speaker", "language") if clip.meta[name]]
    return ", ".join([clip.key, f"{clip.seconds:.2f} s", *said])
