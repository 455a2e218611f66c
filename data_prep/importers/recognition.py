"""What a path that no importer recognises may be: the one manifest in a folder, or what to give in its place."""

from __future__ import annotations

from pathlib import Path

from data_prep.audio import EXTENSIONS
from data_prep.durable import strict_json
from data_prep.importers.common_voice import is_common_voice
from data_prep.importers.kaldi import is_kaldi
from data_prep.importers.rows import ALIASES, first_row
from data_prep.importers.table import first_line
from data_prep.importers.tree import files_below
from data_prep.importers.wenet import is_wenet
from data_prep.index_files import FORMAT, INDEX_NAME
from model.errors import UserError

KNOWN = ("manifest.json", "manifest.jsonl", "utterances.jsonl", "metadata.jsonl", "data.list", "shards.list")
ROWS = (".jsonl", ".json", ".jsonl.gz", ".json.gz")
TABLES = (".csv", ".tsv")
PACKED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip", ".7z", ".rar")
KALDI = ("text", "segments", "utt2spk", "spk2utt", "utt2dur", "feats.scp")
NAMED = 5


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
    """Of the manifests in a folder the one by a known name. UserError that names them where it is none, or several."""
    known = [path for path in manifests if path.name in KNOWN]
    if len(known) == 1:
        return known[0]
    names = ", ".join(path.name for path in manifests[:NAMED])
    more = f" and {len(manifests) - NAMED} more" if len(manifests) > NAMED else ""
    several = "several manifests" if len(manifests) > 1 else "a manifest"
    folder = manifests[0].parent
    raise UserError(f"{folder} holds {several}, {names}{more}; give the one that is meant, as {manifests[0]}")


def hint(source: Path) -> str:
    """What to do about a path that nothing recognises."""
    name = source.name.lower()
    if source.is_file():
        if name.endswith(PACKED):
            return f"{source} is packed; unpack it first, and give the folder"
        if name.endswith(tuple(f".{extension}" for extension in EXTENSIONS)):
            return f"{source} is one recording; give a manifest, or a folder with transcripts"
        if source.name in KALDI and is_kaldi(source.parent):
            return f"{source} is one file of a Kaldi data directory; give its folder"
    else:
        languages = [folder.name for folder in sorted(source.iterdir()) if folder.is_dir() and is_common_voice(folder)]
        if languages:
            named = ", ".join(languages[:NAMED])
            one = source / languages[0]
            return f"{source} holds languages of Common Voice ({named}); give the folder of one, as {one}"
    return (
        f"{source} is of no kind that is known; give a manifest (.jsonl, .csv or .tsv with columns audio and text), or "
        "name the kind: --importer NAME (slam-asr prep import --help says which there are)"
    )


def _names_recordings(path: Path) -> bool:
    if path.suffix == ".list":
        return is_wenet(path)
    if path.suffix in TABLES:
        line = first_line(path)
        return any(name.strip(' "') in ALIASES["audio"] for mark in ",;\t|" for name in line.split(mark))
    row = first_row(path)
    return any(name in row for name in (*ALIASES["audio"], "source", "recording"))
