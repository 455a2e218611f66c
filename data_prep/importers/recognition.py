"""What a path that no importer recognises may be: the one manifest in a folder, or what to give in its place."""

from collections.abc import Collection
from itertools import islice
from pathlib import Path

from data_prep import convertible
from data_prep.audio.decode import EXTENSIONS
from data_prep.durable import strict_json
from data_prep.importers.common_voice import is_common_voice
from data_prep.importers.parsing.files import files_below, files_in, first_line, walked
from data_prep.importers.parsing.rows import ALIASES, column_of, first_row
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
FOLDERS_SEARCHED = 1000


def require_no_shards(folder: Path) -> None:
    """UserError for a directory of our own shards, which would be taken for tars of others."""
    try:
        is_ours = strict_json((folder / INDEX_NAME).read_bytes()).get("format") == FORMAT
    except (OSError, ValueError, RecursionError, AttributeError):
        return
    if is_ours:
        raise UserError(f"{folder} is a shard directory already; to write it anew: slam-asr prep reshard")


def manifests_in(folder: Path) -> list[Path]:
    """Files of it whose first row, or line of column names, names a recording; those of `prep import` that hold what it
    left out are none."""
    files = files_in(folder, (*ROWS, *TABLES, ".list"))
    return [path for path in files if not path.name.endswith(".quarantine.jsonl") and _names_recordings(path)]


def the_one_of(manifests: list[Path]) -> Path:
    """Of the manifests in a folder the one by a known name, or the only one, where recordings lie beside or below it.
    UserError that names them where it is none, or several."""
    known = [path for path in manifests if path.name in KNOWN]
    if len(known) == 1:
        return known[0]
    folder = manifests[0].parent
    if len(manifests) == 1 and _first_recording(folder, READ_OR_CONVERTED):
        return manifests[0]
    names = ", ".join(path.name for path in manifests[:NAMED])
    more = f" and {len(manifests) - NAMED} more" if len(manifests) > NAMED else ""
    several = "several manifests" if len(manifests) > 1 else "a manifest"
    raise UserError(f"{folder} holds {several}, {names}{more}; give the one that is meant, as {manifests[0]}")


def only_table_beside_recordings(folder: Path) -> Path | None:
    """The .csv or .tsv of a folder with recordings that holds just one: whatever its columns are called, it is meant to
    name them."""
    tables = files_in(folder, TABLES)
    return tables[0] if len(tables) == 1 and _first_recording(folder, EXTENSIONS) else None


def hint(source: Path) -> str:
    """What to do about a path that nothing recognises."""
    name = source.name.lower()
    if source.is_dir():
        advice = _what_is_lacking(source)
    elif name.endswith(PACKED):
        advice = f"{source} is packed; unpack it first, and give the folder"
    elif name.endswith(_dotted(EXTENSIONS)):
        advice = f"{source} is one recording; give a manifest, or a folder with transcripts"
    elif name.endswith(_dotted(convertible.EXTENSIONS)):
        command = convertible.conversion(str(source))
        advice = f"{source} is one recording, of a format that is not read; convert it ({command}) and give a manifest"
    elif source.name in KALDI and is_kaldi(source.parent):
        advice = f"{source} is one file of a Kaldi data directory; give its folder"
    else:
        advice = ""
    return advice or (
        f"{source} is of no kind that is known; give a manifest (.jsonl, .csv or .tsv with columns audio and text), or "
        "name the kind: --importer NAME (slam-asr prep import --help says which there are)"
    )


def _what_is_lacking(folder: Path) -> str:
    """What to give in place of a folder, or to add to one that holds recordings alone; empty for other folders."""
    languages = [path for path in sorted(folder.iterdir()) if path.is_dir() and is_common_voice(path)]
    if languages:
        named = ", ".join(path.name for path in languages[:NAMED])
        return f"{folder} holds languages of Common Voice ({named}); give the folder of one, as {languages[0]}"
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
    files = (Path(at, name) for at, names in islice(walked(folder), FOLDERS_SEARCHED) for name in names)
    return next((path for path in files if path.name.lower().endswith(_dotted(extensions))), None)


def _dotted(extensions: Collection[str]) -> tuple[str, ...]:
    return tuple(f".{extension}" for extension in extensions)


def _names_recordings(path: Path) -> bool:
    if path.suffix == ".list":
        return is_wenet(path)
    if path.suffix in TABLES:
        line = first_line(path)
        return any(column_of("audio", line.split(mark)) for mark in ",;\t|")
    row = first_row(path)
    return any(name in row for name in (*ALIASES["audio"], "source", "recording"))
