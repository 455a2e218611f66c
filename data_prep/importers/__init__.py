"""Readers of corpora: each yields Utterances. A new corpus is one file here (in toolkits/ for another toolkit's format)
and one line in IMPORTERS. May import synth, recordings, shards, remote and audio. Begin with librispeech.py; for
manifests of rows with table.py and parsing/rows.py."""

from contextlib import suppress
from itertools import islice
from pathlib import Path

from data_prep.importers.audiofolder import import_audiofolder, is_audiofolder
from data_prep.importers.common_voice import import_common_voice, is_common_voice
from data_prep.importers.folder import FOLDERS_SEARCHED, import_folder, is_folder
from data_prep.importers.huggingface import holds_parquet, import_parquet, is_parquet
from data_prep.importers.librispeech import import_librispeech, is_librispeech
from data_prep.importers.ljspeech import import_ljspeech, is_ljspeech
from data_prep.importers.parsing.files import files_below, files_in, first_line, json_object, walked
from data_prep.importers.parsing.importer import Importer, ImportOptions
from data_prep.importers.parsing.rows import ALIASES, RECORDINGS, SOUND, TO_CONVERT, column_of, first_row
from data_prep.importers.table import import_jsonl, import_table, is_jsonl, is_table
from data_prep.importers.toolkits.kaldi import import_kaldi, is_kaldi
from data_prep.importers.toolkits.lhotse import import_lhotse, import_shar, is_lhotse, is_shar
from data_prep.importers.toolkits.nemo import import_nemo, is_nemo
from data_prep.importers.toolkits.slam_llm import import_slam_llm, is_slam_llm
from data_prep.importers.toolkits.wenet import import_wenet, is_wenet
from data_prep.importers.webdataset import holds_webdataset, import_webdataset, is_webdataset
from data_prep.paths import no_such
from data_prep.refusals import conversion
from data_prep.shards.index import FORMAT, INDEX_NAME
from model.errors import UserError

__all__ = ["IMPORTERS", "ImportOptions", "Importer", "recognised"]

KNOWN = ("manifest.json", "manifest.jsonl", "utterances.jsonl", "metadata.jsonl", "data.list", "shards.list")
JSON_LINES = (".jsonl", ".json", ".jsonl.gz", ".json.gz")
TABLES = (".csv", ".tsv", ".CSV", ".TSV")
PACKED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip", ".7z", ".rar")
KALDI = ("text", "segments", "utt2spk", "spk2utt", "utt2dur", "feats.scp")
NAMED = 5
SAY_WHICH = (
    "give a manifest (.jsonl, .csv or .tsv with columns audio and text), or name the kind: --importer NAME "
    "(slam-asr prep import --help says which there are)"
)
ROOT, COLUMNS = ("audio_root",), ("columns",)
ROWS = (*ROOT, *COLUMNS)
SPLITS = (*ROWS, "split")

IMPORTERS = {
    "librispeech": Importer(import_librispeech, is_librispeech, "the folder LibriSpeech was unpacked to, or a split"),
    "common_voice": Importer(import_common_voice, is_common_voice, "the folder of one language, with clips/", SPLITS),
    "ljspeech": Importer(import_ljspeech, is_ljspeech, "a folder with metadata.csv and wavs/", ROOT),
    "nemo": Importer(import_nemo, is_nemo, "a NeMo manifest, or the folder of a tarred set", ROWS),
    "slam_llm": Importer(import_slam_llm, is_slam_llm, "SLAM-LLM's .jsonl, or the folder of multitask.jsonl", ROWS),
    "wenet": Importer(import_wenet, is_wenet, "WeNet's data.list or shards.list, or a folder of its tars", ROWS),
    "kaldi": Importer(import_kaldi, is_kaldi, "a Kaldi data directory: wav.scp, text, segments ...", ROOT),
    "shar": Importer(import_shar, is_shar, "a folder of cuts.*.jsonl.gz and recording.*.tar that lhotse wrote"),
    "lhotse": Importer(import_lhotse, is_lhotse, "lhotse cuts, or recordings with supervisions", (*ROOT, "split")),
    "audiofolder": Importer(import_audiofolder, is_audiofolder, "a folder with metadata.csv or metadata.jsonl", SPLITS),
    "parquet": Importer(import_parquet, is_parquet, "a Hugging Face data set as .parquet", SPLITS, holds_parquet),
    "table": Importer(import_table, is_table, "a .csv or .tsv with a line of column names", ROWS),
    "jsonl": Importer(import_jsonl, is_jsonl, "a .jsonl manifest with audio and text, of ours or alike", ROWS),
    "webdataset": Importer(import_webdataset, is_webdataset, "tars of a.wav a.txt ...", COLUMNS, holds_webdataset),
    "folder": Importer(import_folder, lambda path: False, "a.flac with a.txt beside it ...", finds_deep=is_folder),
}


def recognised(source: Path) -> tuple[str, Path]:
    """The kind of `source` and what of it to read: itself, or the one manifest that a folder holds.

    The first kind that recognises it; then the one manifest in it, of whatever name where recordings lie beside it;
    then the first that finds its own deep in the folder; then a table that lies alone beside recordings. UserError,
    with what to give in its place, where there is none of these."""
    if not source.exists():
        raise UserError(no_such(source, "give a corpus folder or a manifest"))
    index: dict[str, object] = {}
    with suppress(OSError, ValueError):
        index = json_object((source / INDEX_NAME).read_bytes())
    if index.get("format") == FORMAT:  # our own shards would be taken for tars of others
        raise UserError(f"{source} is a shard directory already; to write it anew: slam-asr prep reshard")
    for name, importer in IMPORTERS.items():
        if importer.recognises(source):
            return name, source
    files = files_in(source, (*JSON_LINES, *TABLES, ".list"))
    manifests = [path for path in files if not path.name.endswith(".quarantine.jsonl") and _names_recordings(path)]
    if manifests:
        return recognised(_the_one_of(manifests))
    for name, importer in IMPORTERS.items():
        if importer.finds_deep is not None and importer.finds_deep(source):
            return name, source
    tables = files_in(source, TABLES)
    if len(tables) == 1 and _first_recording(source, SOUND):
        return recognised(tables[0])  # which says what its columns lack
    raise UserError(_hint(source) or f"{source} is of no kind that is known; {SAY_WHICH}")


def _the_one_of(manifests: list[Path]) -> Path:
    """Of the manifests in a folder the one by a known name, or the only one, where recordings lie beside or below it.
    UserError that names them where it is none, or several."""
    known = [path for path in manifests if path.name in KNOWN]
    if len(known) == 1:
        return known[0]
    folder = manifests[0].parent
    if len(manifests) == 1 and _first_recording(folder, RECORDINGS):
        return manifests[0]
    names = ", ".join(path.name for path in manifests[:NAMED])
    more = f" and {len(manifests) - NAMED} more" if len(manifests) > NAMED else ""
    several = "several manifests" if len(manifests) > 1 else "a manifest"
    raise UserError(f"{folder} holds {several}, {names}{more}; give the one that is meant, as {manifests[0]}")


def _hint(source: Path) -> str:
    """What to do about a path that nothing recognises; empty where nothing is known."""
    name = source.name.lower()
    if source.is_dir():
        return _what_is_lacking(source)
    if name.endswith(PACKED):
        return f"{source} is packed; unpack it first, and give the folder"
    if name.endswith(SOUND):
        return f"{source} is one recording; give a manifest, or a folder with transcripts"
    if name.endswith(TO_CONVERT):
        command = conversion(str(source))
        return f"{source} is one recording, of a format that is not read; convert it ({command}) and give a manifest"
    if source.name in KALDI and is_kaldi(source.parent):
        return f"{source} is one file of a Kaldi data directory; give its folder"
    return ""


def _what_is_lacking(folder: Path) -> str:
    """What to give in place of a folder, or to add to one that holds recordings alone; empty for other folders."""
    languages = [path for path in sorted(folder.iterdir()) if path.is_dir() and is_common_voice(path)]
    if languages:
        named = ", ".join(path.name for path in languages[:NAMED])
        return f"{folder} holds languages of Common Voice ({named}); give the folder of one, as {languages[0]}"
    if not any(folder.iterdir()):
        return f"{folder} is empty; give the folder that recordings and their transcripts lie in"
    deeper = next((path for path in files_below(folder, TABLES + JSON_LINES, depth=2) if _names_recordings(path)), None)
    if deeper is not None:
        return f"{folder} holds manifests in folders of it; give the one that is meant, as {deeper}"
    recording = _first_recording(folder, SOUND)
    if recording is not None:
        return (
            f"{folder} holds recordings, {recording} first, and no transcripts; put {recording.stem}.txt beside "
            f"{recording.name}, and so for each, or name them all in {folder / 'metadata.csv'}, whose first line is "
            "file_name,text (slam-asr prep build --help says more)"
        )
    recording = _first_recording(folder, TO_CONVERT)
    if recording is None:
        return ""
    command = conversion(str(recording))
    return f"{folder} holds recordings of a format that is not read, {recording} first; convert them: {command}"


def _first_recording(folder: Path, extensions: tuple[str, ...]) -> Path | None:
    """Among the first folders in it."""
    files = (Path(at, name) for at, names in islice(walked(folder), FOLDERS_SEARCHED) for name in names)
    return next((path for path in files if path.name.lower().endswith(extensions)), None)


def _names_recordings(path: Path) -> bool:
    if path.suffix == ".list":
        return is_wenet(path)
    if path.suffix in TABLES:
        line = first_line(path)
        return any(column_of("audio", line.split(mark)) for mark in ",;\t|")
    row = first_row(path)
    return any(name in row for name in (*ALIASES["audio"], "source", "recording"))
