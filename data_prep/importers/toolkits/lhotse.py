"""lhotse manifests: cuts, or recordings with supervisions, as JSONL(.gz); a file of them, or a folder.

One utterance for each supervision, named by its id; a cut or a recording without one has no transcript, which the
import counts. Positions and lengths are whole samples, rounded as lhotse does. Only what our audio can give the same
samples of is taken: not mixed or padded cuts, not what lhotse would resample, speed up or otherwise change on loading,
not one channel out of several in a file. Features beside the audio are not read.

Shar: a folder of cuts.000000.jsonl.gz and, shard by shard, recording.000000.tar with the cuts' audio, which stays where
it is. Arrays in other tars are not read."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.importers.parsing.files import chosen_splits, files_in
from data_prep.importers.parsing.importer import DEFAULTS, ImportOptions, Recording, at
from data_prep.importers.parsing.rows import Row, audio_of, first_row
from data_prep.recordings.tar_members import Member, members
from data_prep.utterance import Utterance, read_rows, safe_key
from model.errors import UserError

MAX_LINE_BYTES = 64 << 20  # a cut of an hour with the times of all its words
SUFFIXES = (".jsonl", ".jsonl.gz")
SHAR_AUDIO = ("flac", "wav", "mp3", "opus", "original")
SHAR_NO_AUDIO = ("json", "nodata", "nometa")  # metadata, and placeholders for a cut without audio
TAKEN = ("id", "recording_id", "start", "duration", "text", "language", "speaker")  # of a supervision, into fields


def is_lhotse(path: Path) -> bool:
    files = [*_files(path, "recordings"), *_files(path, "cuts")] if path.is_dir() else [path]
    return any(_kind(file) for file in files if file.name.endswith(SUFFIXES))


def import_lhotse(path: Path, options: ImportOptions = DEFAULTS) -> Iterator[Utterance]:
    """In the order of the cuts, or of the supervisions. `options.split` chooses files of a folder by their names.
    UserError, with file and line: a row that is not as lhotse writes it, or of audio that we would read otherwise."""
    for main, supervisions in _manifests(path, options.split):
        reader = Reader(options.audio_root or main.parent, options)
        if supervisions is None:
            for place, cut in read_rows(main, MAX_LINE_BYTES):
                with _faults_at(place):
                    yield from reader.cut(cut)
        else:
            yield from _joined(main, supervisions, reader)


def is_shar(path: Path) -> bool:
    return path.is_dir() and bool(files_in(path, SUFFIXES, "cuts")) and any(path.glob("recording.*tar"))


def import_shar(folder: Path, options: ImportOptions = DEFAULTS) -> Iterator[Utterance]:
    """Shard after shard, in the order of the cuts. UserError: no cuts, no tar to them, a cut without audio in it."""
    shards = files_in(folder, SUFFIXES, "cuts")
    if not shards:
        raise UserError(f"{folder} holds no cuts.*.jsonl.gz; give the folder that lhotse's to_shar wrote")
    for cuts in shards:
        tar = cuts.with_name(f"recording{cuts.name.partition('.jsonl')[0].removeprefix('cuts')}.tar")
        if not tar.is_file():
            raise UserError(f"{cuts} has no {tar.name} beside it, which would hold the audio")
        audio = _shar_recordings(tar)
        for place, cut in read_rows(cuts, MAX_LINE_BYTES):
            with _faults_at(place):
                name = str(cut.get("id"))
                if name not in audio:
                    raise UserError(f"cut {name} has no audio in {tar.name}")
                part = f"bytes:{audio[name].offset}:{audio[name].size}"
                yield from Reader(folder, options, Recording(str(tar), part)).cut(cut)


def _shar_recordings(tar: Path) -> dict[str, Member]:
    """Cut id to its audio."""
    recordings: dict[str, Member] = {}
    for member in members(tar):
        name, _, kind = member.name.rpartition(".")
        if kind in SHAR_NO_AUDIO:
            continue
        if kind not in SHAR_AUDIO:
            raise UserError(f"{tar}: {member.name} is no recording that is read ({', '.join(SHAR_AUDIO)})")
        if name in recordings:
            raise UserError(f"{tar}: cut {name} is there twice")
        recordings[name] = member
    return recordings


@dataclass(frozen=True)
class Reader:
    home: Path  # where relative paths start
    options: ImportOptions
    recording: Recording | None = None  # takes the place of the source that the row gives (Shar)

    def cut(self, cut: Row) -> Iterator[Utterance]:
        """One for each supervision; one without a transcript where there is none."""
        if cut.get("type") not in ("MonoCut", "MultiCut"):
            raise UserError(f"cut {cut.get('id')} is a {cut.get('type')}, it has to be a MonoCut or a MultiCut")
        if not cut.get("recording"):
            raise UserError(f"cut {cut['id']} has no recording, only features; there is no audio to read")
        about = {"id": cut["id"], "start": cut["start"], "custom": cut.get("custom")}
        about = {"cut": {name: value for name, value in about.items() if value is not None}}
        for segment in cut.get("supervisions") or [{"id": cut["id"], "start": 0, "duration": cut["duration"]}]:
            yield self.supervision({"channel": cut["channel"], **segment}, cut["recording"], cut["start"], about)

    def supervision(self, segment: Row, recording: Row, cut_start: float = 0, about: Row | None = None) -> Utterance:
        """It begins `start` seconds after its cut does, and that `cut_start` seconds into `recording`."""
        source = _source(recording, segment.get("channel"))
        kind, part = source["type"], "pipe" if source["type"] == "command" else ""
        if self.recording is None and kind not in ("command", "file", "url"):
            where = "; its audio is in tars: give the Shar folder" if kind == "shar" else ", not a file, url or command"
            raise UserError(f"recording {recording['id']} has a source of type {kind}{where}")
        audio, part = self.recording or (audio_of(source["source"], self.home, self.options, part), part)
        rate = recording["sampling_rate"]
        first, count = _samples(cut_start, rate) + _samples(segment["start"], rate), _samples(segment["duration"], rate)
        if first < 0:
            raise UserError(
                f"utterance {segment['id']} begins before the audio that is left of it; "
                "write the cuts with trim_to_supervisions(keep_overlapping=False)"
            )
        whole = first == 0 and count == recording["num_samples"]
        key = safe_key(str(segment["id"]))
        meta = {name: value for name, value in segment.items() if name not in TAKEN and value is not None}
        meta |= {**(about or {}), "recording": recording["id"]}
        return Utterance(
            *(key, audio, segment.get("text")),
            start=None if whole else first / rate,
            duration=count / rate,
            language=segment.get("language") or "",
            speaker=str(segment.get("speaker") or ""),
            part=part,
            meta=meta | ({"id": segment["id"]} if key != segment["id"] else {}),
        )


def _joined(recordings: Path, supervisions: Path, reader: Reader) -> Iterator[Utterance]:
    """Supervisions in their order, then the recordings that have none."""
    known = {str(row.get("id")): row for _, row in read_rows(recordings, MAX_LINE_BYTES)}
    silent = dict(known)
    for place, row in read_rows(supervisions, MAX_LINE_BYTES):
        with _faults_at(place):
            name = str(row["recording_id"])
            if name not in known:
                raise UserError(f"supervision {row['id']} is of recording {name}, which {recordings} does not hold")
            silent.pop(name, None)
            yield reader.supervision(row, known[name])
    for name, row in silent.items():
        with _faults_at(f"{recordings}: recording {name}"):
            yield reader.supervision({"id": name, "start": 0, "duration": row["duration"]}, row)


def _source(recording: Row, channel: Any) -> Row:
    """The one source that holds just the channels wanted, all where none is given."""
    name = recording["id"]
    if recording.get("transforms"):
        made = ", ".join(str(item.get("name")) for item in recording["transforms"])
        raise UserError(f"recording {name} is transformed on loading ({made}); save its audio, or import it without")
    wanted = None if channel is None else sorted(channel if isinstance(channel, list) else [channel])
    sources = recording["sources"]
    holding = [source for source in sources if wanted is None or sorted(source["channels"]) == wanted]
    if len(holding) != 1:
        there = " and ".join(str(source["channels"]) for source in sources)
        raise UserError(
            f"recording {name} has files of channels {there}, wanted is {wanted or 'all'}; all channels of one file "
            "are averaged, and none is taken apart: write the channels to files of their own first"
        )
    return holding[0]


def _samples(seconds: float, rate: int) -> int:
    """As lhotse.utils.compute_num_samples: to the nearest, halves up."""
    return math.floor(round(seconds * rate, 8) + 0.5)


def _manifests(path: Path, split: str) -> list[tuple[Path, Path | None]]:
    """(cuts, None) or (recordings, supervisions), a pair for each split."""
    if path.is_file():
        kind = _kind(path)
        if kind == "cuts":
            return [(path, None)]
        main = path if kind == "recordings" else path.with_name(path.name.replace("supervisions", "recordings"))
        return [_pair(main)]
    cuts, recordings = _files(path, "cuts"), _files(path, "recordings")
    if bool(cuts) == bool(recordings):
        if cuts:
            raise UserError(f"{path} holds both cuts and recordings; give the file that is meant")
        raise UserError(f"{path} holds neither cuts*.jsonl.gz nor recordings*.jsonl.gz; give a folder that does")
    name = "cuts" if cuts else "recordings"  # the split is `dev-clean` of librispeech_cuts_dev-clean.jsonl.gz
    by_split = {file.name.partition(".jsonl")[0].partition(name)[2].strip("_.-"): file for file in cuts or recordings}
    chosen = [by_split[name] for name in chosen_splits(list(by_split), split, path)]
    return [(file, None) if cuts else _pair(file) for file in chosen]


def _pair(recordings: Path) -> tuple[Path, Path]:
    supervisions = recordings.with_name(recordings.name.replace("recordings", "supervisions"))
    if "recordings" not in recordings.name or not supervisions.is_file() or not recordings.is_file():
        raise UserError(f"{recordings} must be beside {supervisions.name}: recordings_X.jsonl.gz, supervisions_X ...")
    return recordings, supervisions


def _files(folder: Path, name: str) -> list[Path]:
    return [file for file in files_in(folder, SUFFIXES) if name in file.name]


def _kind(file: Path) -> str:
    """What its first row is: cuts, recordings, supervisions, or "" for none of these."""
    row = first_row(file, MAX_LINE_BYTES)
    if isinstance(row.get("recording"), dict) or str(row.get("type", "")).endswith("Cut"):
        return "cuts"
    if "sources" in row and "sampling_rate" in row:
        return "recordings"
    return "supervisions" if "recording_id" in row and "duration" in row else ""


@contextmanager
def _faults_at(place: str) -> Iterator[None]:
    """Names the place of what is refused inside, and of what is not as lhotse writes it."""
    with at(place):
        try:
            yield
        except UserError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise UserError(f"not as lhotse writes it: {type(error).__name__} {error}") from None
