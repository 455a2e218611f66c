"""Tars of samples as webdataset has them: members of one name, up to its first dot, are one utterance.

`dir/utt1.flac` `dir/utt1.json` is an utterance with the key dir/utt1; the recording is the member whose last extension
is a sound format's. The transcript is `.txt`, or a field of `.json`; its other fields become speaker, language, task,
meta. Members of a sample need not lie together: `tar` takes files in the order that the disk gives them. Members of any
other kind are never opened."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.audio import decode as audio
from data_prep.importers.parsing.files import files_below, json_object
from data_prep.importers.parsing.importer import DEFAULTS, ImportOptions, faulty, nearest
from data_prep.importers.parsing.rows import ALIASES, Row
from data_prep.paths import no_such
from data_prep.recordings.tar_members import Member, members
from data_prep.refusals import Refused
from data_prep.utterance import Utterance, not_utf8, safe_key
from model.errors import UserError

NOT_DECODED = ("m4a", "mp4", "aac", "wma", "webm", "amr")  # recordings too; the decoder refuses them, with the reason
MEDIA = {*audio.EXTENSIONS, *NOT_DECODED}
PICKLES = {"pkl", "pickle", "pyd", "pth", "pt", "npy", "npz", "joblib"}  # run code when opened, or may
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)  # webdataset's rule: key, extensions
PASSED_OVER = re.compile(r"__[^/]*__($|/)")  # webdataset's notes to itself
MAX_TEXT_BYTES = 1 << 20  # of a .txt or .json: longer is of no utterance
MAX_SAMPLES = 2_000_000  # of a tar: a gigabyte of memory
MAX_DEPTH = 20  # of a .json: past some hundreds it could be written, yet not be read by a thread with less stack
LABELS = ("language", "speaker", "task")  # fields of Utterance


@dataclass(frozen=True)
class SampleOptions:
    text_field: str = ""
    """Field of `.json` that is the transcript; empty for `text_extension`, else the first of ALIASES."""
    text_extension: str = "txt"
    """Of the member that is the transcript."""
    prefix_shard: bool = False
    """Keys begin with their tar's name, for sets that count anew in each tar."""


@dataclass
class TarSample:
    """The members of one name, by their extensions in lower case."""

    name: str
    members: dict[str, Member] = field(default_factory=dict)
    twice: str = ""  # a member that is in the tar twice

    def recordings(self) -> list[Member]:
        return [member for extension, member in self.members.items() if _last(extension) in MEDIA]


def is_webdataset(path: Path) -> bool:
    return path.suffix == ".tar" if path.is_file() else any(path.glob("*.tar"))


def holds_webdataset(path: Path) -> bool:
    """A folder of folders of tars."""
    return any(path.glob("*/*.tar"))


def import_webdataset(path: Path, options: ImportOptions = DEFAULTS) -> Iterator[Utterance]:
    """In the order of the tars' names and of the samples in them. A sample that cannot be used keeps its place with the
    reason in its `part`, for the build to count and name. UserError for a tar that tar_members.members refuses."""
    if set(options.columns) - {"text"}:
        raise UserError("--column names the transcript's field alone in tars; the .json of a sample names the others")
    named = SampleOptions(text_field=options.columns.get("text", ""))
    for tar in find_tars([path]):
        samples, _ = samples_of(tar, named)
        with open(tar, "rb") as file:
            for sample in samples:
                try:
                    yield utterance_of(tar, file.fileno(), sample, named)
                except Refused as error:
                    unusable = Utterance(key_of(tar, sample, named), str(tar), "", meta={"id": sample.name})
                    yield faulty(unusable, error.reason, str(error))


def find_tars(paths: Sequence[Path]) -> list[Path]:
    """Tars as given, and those in folders, sorted by name. UserError if there are none, or compressed ones."""
    tars = []
    for path in paths:
        if not path.exists():
            raise UserError(no_such(path, "give tars, or a folder of them"))
        files = files_below(path, (".tar", *PACKED)) if path.is_dir() else [path]
        packed = next((file for file in files if file.name.endswith(PACKED)), None)
        if packed:
            raise UserError(f"{packed} is compressed; unpack it to a .tar, or name the tars to read")
        if not files:
            raise UserError(f"{path} holds no .tar; give tars, or a folder of them")
        tars += files
    for tar in tars:
        if not str(tar).isprintable():  # a line of a manifest, and of a message, must hold it
            raise UserError(f"the name of {str(tar)!r} holds what cannot be printed, or is not UTF-8; rename it")
    return list(dict.fromkeys(tars))


def samples_of(tar: Path, options: SampleOptions) -> tuple[list[TarSample], Counter[str]]:
    """Samples in the order of their first members, and how many members are of no use, by their last extension."""
    useful = MEDIA | {"json", options.text_extension}
    samples: dict[str, TarSample] = {}
    unused: Counter[str] = Counter()
    for member in members(tar):
        match = NAME.fullmatch(member.name)
        if match is None or PASSED_OVER.match(member.name):
            unused["(no key)"] += 1
            continue
        if len(samples) > MAX_SAMPLES:
            raise UserError(f"{tar} holds more than {MAX_SAMPLES:,} samples; split it")
        name, extension = match[1], match[2].lower()
        if extension not in useful and _last(extension) not in MEDIA:
            unused[f".{_last(extension)}"] += 1
        sample = samples.setdefault(name, TarSample(name))
        if extension in sample.members:
            sample.twice = sample.twice or member.name
        sample.members[extension] = member
    return list(samples.values()), unused


def key_of(tar: Path, sample: TarSample, options: SampleOptions) -> str:
    return safe_key(f"{tar.stem}-{sample.name}" if options.prefix_shard else sample.name)


def utterance_of(tar: Path, descriptor: int, sample: TarSample, options: SampleOptions) -> Utterance:
    """The sample as a stretch of the tar, which `descriptor` has open. Refused with the reason if it cannot be used."""
    recording, row = _recording(sample), _row(sample, descriptor)
    words = [n for n, v in row.items() if isinstance(v, str | int) and not isinstance(v, bool) and v != ""]
    taken = {field: next((name for name in ALIASES[field] if name in words), "") for field in LABELS}
    labels: dict[str, Any] = {field: str(row[name]) for field, name in taken.items() if name}
    taken["text"] = options.text_field or next((name for name in ALIASES["text"] if name in row), "")
    text = _text(sample, descriptor, row, taken["text"], options)
    meta = {name: value for name, value in row.items() if name not in (*taken.values(), "meta")}
    meta |= row["meta"] if isinstance(row.get("meta"), dict) else {}
    key = key_of(tar, sample, options)
    if key != sample.name:
        meta["id"] = sample.name
    return Utterance(key, str(tar), text, part=f"bytes:{recording.offset}:{recording.size}", meta=meta, **labels)


def _recording(sample: TarSample) -> Member:
    if sample.twice:
        raise Refused("twice", f"member {sample.twice!r} is in the tar twice; which one is meant?")
    recordings = sample.recordings()
    if len(recordings) > 1:
        names = ", ".join(repr(os.path.basename(member.name)) for member in recordings[:3])
        count = len(recordings)
        raise Refused("several-recordings", f"{count} recordings are of this name up to its first dot: {names}")
    if not recordings:
        kinds = ", ".join(f".{extension}" for extension in list(sample.members)[:5])
        pickled = any(_last(extension) in PICKLES for extension in sample.members)
        kinds += ", which may hold code and is never opened" if pickled else ""
        raise Refused("pickle" if pickled else "no-audio", f"no recording among its members: {kinds}")
    return recordings[0]


def _row(sample: TarSample, descriptor: int) -> dict[str, Any]:
    """Its .json; empty where it has none."""
    if "json" not in sample.members:
        return {}
    try:
        row = json_object(_read(sample.members["json"], descriptor))
    except ValueError as error:
        raise Refused("bad-json", f"its .json cannot be read: {error}") from None
    if _deeper_than(MAX_DEPTH, row):
        raise Refused("bad-json", f"its .json is nested deeper than {MAX_DEPTH}")
    return row


def _deeper_than(depth: int, value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth < 0 or any(_deeper_than(depth - 1, item) for item in inner if isinstance(item, dict | list))


def _text(sample: TarSample, descriptor: int, row: Row, field: str, options: SampleOptions) -> str | None:
    """The transcript: of its own member, else that field of .json; None where neither has one."""
    if field and field not in row:
        raise Refused("no-text", f"its .json has no field {field!r}{nearest(field, row)}")
    text = row[field] if field else None
    if not isinstance(text, str | None):
        raise Refused("bad-json", f"field {field!r} is {str(text)[:40]!r}, it must be text")
    if options.text_extension not in sample.members or options.text_field:
        return text
    try:
        return _read(sample.members[options.text_extension], descriptor).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused("bad-text", f"its transcript: {not_utf8(error)}") from None


def _read(member: Member, descriptor: int) -> bytes:
    if member.size > MAX_TEXT_BYTES:
        long = f"member {member.name[-60:]!r} has {member.size:,} bytes, at most {MAX_TEXT_BYTES:,} are read"
        raise Refused("text-too-long", long)
    return os.pread(descriptor, member.size, member.offset)


def _last(extension: str) -> str:
    return extension.rpartition(".")[2]
