"""A few utterances of a shard directory as files to listen to, with a page that plays them beside their transcripts."""

import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.audio import decode as audio
from data_prep.build.assign import key_hash
from data_prep.durable import temporary_name
from data_prep.figures import in_hours
from data_prep.inspect.html_page import page, text
from data_prep.rework.joined import place_of
from data_prep.rework.subset import fields_of
from data_prep.shards.index import ShardIndex
from data_prep.shards.tar import read_sample
from model.errors import UserError, counted, require_at_least, require_known

PLAYED = {"FLAC": "flac", "WAV": "wav", "OGG": "ogg", "MP3": "mp3"}  # by browsers; all else becomes FLAC
PICKS = ("random", "longest", "shortest")


@dataclass(frozen=True)
class SampleChoice:
    number: int = 20
    """Utterances; all where there are fewer."""
    seed: int = 0
    order: str = "random"
    """One of PICKS."""
    by: str = ""
    """A field of the metadata: its values take turns, so that rare ones are in it too."""
    keys: frozenset[str] | None = None
    """Just these instead."""
    wav: bool = False
    """Decoded to 16-bit WAV, rather than as they lie in the shard."""

    def __post_init__(self) -> None:
        require_at_least("number", self.number, 1)
        require_known("order", self.order, PICKS)


@dataclass(frozen=True)
class SampleFile:
    key: str
    file: str
    seconds: float
    meta: dict[str, Any]


def write_sample(index: ShardIndex, out: Path, options: SampleChoice) -> list[SampleFile]:
    """Writes the clips, index.html and transcripts.tsv to the new folder `out`, which appears whole or not at all.
    UserError: features, a key that is not there, `out` taken, an utterance that cannot be read."""
    if index.kind != "audio":
        what = f"{place_of(index)} holds {index.kind}, there is nothing to listen to"
        raise UserError(f"{what}; give the audio it was made from")
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
    if options.by:  # the first of each value, then the second of each, ...
        values, counts, turns = fields_of(index, [options.by])[options.by], Counter[str](), {}
        for i in ordered:
            turns[i] = counts[values[i]]
            counts[values[i]] += 1
        ordered.sort(key=turns.__getitem__)
    return ordered[: options.number]


def _write_clip(index: ShardIndex, i: int, folder: Path, wav: bool) -> SampleFile:
    sample = read_sample(index, i)
    try:
        kind = "" if wav else PLAYED.get(audio.probe(sample.media).format)
        data = sample.media if kind else (audio.encode_wav if wav else audio.encode_flac)(audio.decode(sample.media))
    except audio.AudioError as error:
        raise UserError(f'utterance {sample.key}: {error}; run "slam-asr prep check {place_of(index)}"') from None
    file = f"{sample.key}.{kind or ('wav' if wav else 'flac')}"
    (folder / file).write_bytes(data)
    return SampleFile(sample.key, file, int(index.samples[i]) / audio.SAMPLE_RATE, sample.meta)


def _table(clips: list[SampleFile]) -> str:
    """One line each under a header; tabs and line ends in a field become spaces."""
    names = ("speaker", "language", "text")
    rows = [["file", "seconds", *names]]
    rows += [[clip.file, f"{clip.seconds:.2f}", *(clip.meta[name] for name in names)] for clip in clips]
    return "".join("\t".join(" ".join(str(field).split()) for field in row) + "\n" for row in rows)


def _page(index: ShardIndex, clips: list[SampleFile]) -> str:
    body = [f"<p>{len(clips):,} of {counted(len(index), 'utterance')}, {in_hours(index.seconds)} in all</p>"]
    for clip in clips:
        named = [f"{name} {clip.meta[name]}" for name in ("speaker", "language") if clip.meta[name]]
        about = ", ".join([clip.key, f"{clip.seconds:.2f} s", *named])
        body.append(
            f'<section><audio controls preload="none" src="{text(clip.file)}"></audio>\n'
            f'<p dir="auto">{text(clip.meta["text"])}</p><p><small>{text(about)}</small></p></section>'
        )
    return page(place_of(index).rstrip("/").rpartition("/")[2], body)
