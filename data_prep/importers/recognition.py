"""What a path that no importer recognises may be: the one manifest in a folder, or what to give in its place."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice
from pathlib import Path

from data_prep import convertible
from data_prep.audio.decode import EXTENSIONS
from data_prep.durable import strict_json
from data_prep.importers.common_voice import is_common_voice
from data_prep.importers.parsing.rows import ALIASES, column_of, first_row
from data_prep.importers.parsing.tree import files_below, walked
from data_prep.importers.table import first_line
from data_prep.importers.toolkits.kaldi import is_kaldi
from data_prep.importers.toolkits.wenet import is_wenet
from data_prep.shards.index import FORMAT, INDEX_NAME
from model.errors import UserError

KNOWN = ("manifest.json", "manifest.jsonl", "utterances.jsonl", "metadata.jsonl", "data.list", "shards.list")
ROWS = (".jsonl", ".json", ".jsonl.gz", ".json.gz")
TABLES = (".csv", ".tsv", ".CSV", ".TSV")
PACKED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip", ".7z", ".rar")
KALDI = ("text", "segments", "utt2spk", "spk2utt", "utt2dur", "feats.scp")
NAMED = 5
READ_OR_CONVERTED = (*EXTENSIONS, *convertible.EXTENSIONS)
FOLDERS_LOOKED_INTO = 1000


def require_no_shards(folder: Path) -> None:
    """UserError for a directory of our own shards, which would be taken for tars of others."""
    try:
        with open(folder / INDEX_NAME, "rb") as file:
            is_ours = strict_json(file.read()).get("format") == FORMAT
    except (OSError, ValueError, RecursionError, AttributeError):
        return
    if is_ours:
        raise UserError(f"{folder} is a shard directory already; to write it anew: slam-asr prep reshard")


def manifests_in(folder: Path) -> list[Path]:
    """Files of it whose first row, or line of column names, names a recording; those of `prep import` that hold what it
    left out are none."""
    files = files_below(folder, (*ROWS, *TABLES, ".list"), depth=0) if folder.is_dir() else []
    return [path for path in files if not path.name.endswith(".quarantine.jsonl") and _names_recordings(path)]


def the_one_of(manifests: list[Path]) -> Path:
    """Of the manifests in a folder the one by a known name, or the only one, where recordings lie beside or below it.
    UserError that names them where it is none, or several."""
    known = [path for path in manifests if path.name in KNOWN]
    if len(known) == 1:
        return known[0]
    if len(manifests) == 1 and _first_recording(manifests[0].parent, READ_OR_CONVERTED):
        return manifests[0]
    names = ", ".join(path.name for path in manifests[:NAMED])
    more = f" and {len(manifests) - NAMED} more" if len(manifests) > NAMED else ""
    several = "several manifests" if len(manifests) > 1 else "a manifest"
    folder = manifests[0].parent
    raise UserError(f"{folder} holds {several}, {names}{more}; give the one that is meant, as {manifests[0]}")


def only_table_beside_recordings(folder: Path) -> Path | None:
    """The .csv or .tsv of a folder with recordings that holds just one: whatever its columns are called, it is meant to
    name them."""
    tables = files_below(folder, TABLES, depth=0) if folder.is_dir() else []
    return tables[0] if len(tables) == 1 and _first_recording(folder, EXTENSIONS) else None


def hint(source: Path) -> str:
    """What to do about a path that nothing recognises."""
    name = source.name.lower()
    if source.is_file():
        if name.endswith(PACKED):
            return f"{source} is packed; unpack it first, and give the folder"
        if name.endswith(tuple(f".{extension}" for extension in EXTENSIONS)):
            return f"{source} is one recording; give a manifest, or a folder with transcripts"
        if name.endswith(tuple(f".{extension}" for extension in convertible.EXTENSIONS)):
            command = convertible.conversion(str(source))
            return (
                f"{source} is one recording, of a format that is not read; convert it ({command}) and give a manifest"
            )
        if source.name in KALDI and is_kaldi(source.parent):
            return f"{source} is one file of a Kaldi data directory; give its folder"
    else:
        languages = [folder.name for folder in sorted(source.iterdir()) if folder.is_dir() and is_common_voice(folder)]
        if languages:
            named = ", ".join(languages[:NAMED])
            one = source / languages[0]
            return f"{source} holds languages of Common Voice ({named}); give the folder of one, as {one}"
        lacking = _what_is_lacking(source)
        if lacking:
            return lacking
    return (
        f"{source} is of no kind that is known; give a manifest (.jsonl, .csv or .tsv with columns audio and text), or "
        "name the kind: --importer NAME (slam-asr prep import --help says which there are)"
    )


def _what_is_lacking(folder: Path) -> str:
    """What to add to a folder that is empty, or holds recordings alone; empty for one of other things."""
    if not any(folder.iterdir()):
        return f"{folder} is empty; give the folder that recordings and their transcripts lie in"
    deeper = next((path for path in files_below(folder, TABLES + ROWS, depth=2) if _names_recordings(path)), None)
    if deeper is not None:
        return f"{folder} holds manifests in folders of it; give the one that is meant, as {deeper}"
    recording = _first_recording(folder, EXTENSIONS)
    if recording is not None:
        return (
            f"{folder} holds recordings, {recording} first, and no transcripts; put {recording.stem}.txt beside "
            f"{recording.name}, and so for each, or name them all in {folder / 'metadata.csv'}, whose first line is "
            "file_name,text (slam-asr prep build --help says more)"
        )
    recording = _first_recording(folder, convertible.EXTENSIONS)
    if recording is not None:
        command = convertible.conversion(str(recording))
        return f"{folder} holds recordings of a format that is not read, {recording} first; convert them: {command}"
    return ""


def _first_recording(folder: Path, extensions: Collection[str]) -> Path | None:
    """Among the first folders in it."""
    endings = tuple(f".{extension}" for extension in extensions)
    first = islice(walked(folder), FOLDERS_LOOKED_INTO)
    return next(
        (Path(at, name) for at, names in first for name in sorted(names) if name.lower().endswith(endings)), None
    )


def _names_recordings(path: Path) -> bool:
    if path.suffix == ".list":
        return is_wenet(path)
    if path.suffix in TABLES:
        line = first_line(path)
        return any(column_of("audio", line.split(mark)) for mark in ",;\t|")
    row = first_row(path)
    return any(name in row for name in (*ALIASES["audio"], "source", "recording"))
