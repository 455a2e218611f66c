"""lhotse Shar: a folder of cuts.000000.jsonl.gz and, shard by shard, recording.000000.tar with the cuts' audio.

A row names the place of the audio in its tar, which stays where it is. Arrays in other tars are not read.
"""

from collections.abc import Iterator
from pathlib import Path

from data_prep.importers.parsing.files import files_in
from data_prep.importers.parsing.importer import DEFAULTS, ImportOptions, Recording
from data_prep.importers.toolkits.lhotse import MAX_LINE_BYTES, SUFFIXES, Reader
from data_prep.recordings.tar_members import Member, members
from data_prep.utterance import Utterance, read_rows
from model.errors import UserError

AUDIO = ("flac", "wav", "mp3", "opus", "original")
NONE = ("nodata", "nometa")  # lhotse's placeholders for a cut without audio


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
        audio = _recordings(tar)
        for place, cut in read_rows(cuts, MAX_LINE_BYTES):
            name = str(cut.get("id"))
            if name not in audio:
                raise UserError(f"{place}: cut {name} has no audio in {tar.name}")
            part = f"bytes:{audio[name].offset}:{audio[name].size}"
            yield from Reader(folder, options, Recording(str(tar), part)).cut(cut, place)


def _recordings(tar: Path) -> dict[str, Member]:
    """Cut id to its audio."""
    recordings: dict[str, Member] = {}
    for member in members(tar):
        name, _, kind = member.name.rpartition(".")
        if kind == "json" or kind in NONE:
            continue
        if kind not in AUDIO:
            raise UserError(f"{tar}: {member.name} is no recording that is read ({', '.join(AUDIO)})")
        if name in recordings:
            raise UserError(f"{tar}: cut {name} is there twice")
        recordings[name] = member
    return recordings
