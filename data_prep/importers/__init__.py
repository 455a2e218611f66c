"""Readers of corpora: each yields Utterances. A new corpus is one file here (in toolkits/ for another toolkit's format)
and one line in IMPORTERS. May import synth, recordings, shards, remote and audio. Begin with librispeech.py; for
manifests of rows with jsonl.py and parsing/rows.py.
"""

from pathlib import Path

from data_prep.importers import recognition
from data_prep.importers.audiofolder import import_audiofolder, is_audiofolder
from data_prep.importers.common_voice import import_common_voice, is_common_voice
from data_prep.importers.folder import import_folder, is_folder
from data_prep.importers.huggingface import holds_parquet, import_parquet, is_parquet
from data_prep.importers.jsonl import import_jsonl, is_jsonl
from data_prep.importers.librispeech import import_librispeech, is_librispeech
from data_prep.importers.ljspeech import import_ljspeech, is_ljspeech
from data_prep.importers.parsing.importer import Importer, ImportOptions
from data_prep.importers.table import import_table, is_table
from data_prep.importers.toolkits.kaldi import import_kaldi, is_kaldi
from data_prep.importers.toolkits.lhotse import import_lhotse, is_lhotse
from data_prep.importers.toolkits.nemo import import_nemo, is_nemo
from data_prep.importers.toolkits.shar import import_shar, is_shar
from data_prep.importers.toolkits.slam_llm import import_slam_llm, is_slam_llm
from data_prep.importers.toolkits.wenet import import_wenet, is_wenet
from data_prep.importers.webdataset import holds_webdataset, import_webdataset, is_webdataset
from data_prep.paths import no_such
from model.errors import UserError

__all__ = ["IMPORTERS", "ImportOptions", "Importer", "guess_importer", "recognised"]

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
    "lhotse": Importer(
        import_lhotse,
        is_lhotse,
        "lhotse cuts, or recordings with supervisions: a file or their folder",
        (*ROOT, "split"),
    ),
    "audiofolder": Importer(
        import_audiofolder, is_audiofolder, "a folder with metadata.csv or .jsonl of file names", SPLITS
    ),
    "parquet": Importer(
        import_parquet, is_parquet, "a Hugging Face data set as .parquet, file or folder", SPLITS, holds_parquet
    ),
    "table": Importer(import_table, is_table, "a .csv or .tsv with a line of column names", ROWS),
    "jsonl": Importer(import_jsonl, is_jsonl, "a .jsonl manifest with audio and text, of ours or alike", ROWS),
    "webdataset": Importer(
        import_webdataset, is_webdataset, "tars of a.wav a.txt ..., or a folder of such", COLUMNS, holds_webdataset
    ),
    "folder": Importer(
        import_folder, lambda path: False, "a folder of recordings, a.flac with a.txt beside it", (), is_folder
    ),
}


def guess_importer(source: Path) -> str:
    """The kind of `source`; UserError if none is."""
    return recognised(source)[0]


def recognised(source: Path) -> tuple[str, Path]:
    """The kind of `source` and what of it to read: itself, or the one manifest that a folder holds.

    The first kind that recognises it; then the one manifest in it, of whatever name where recordings lie beside it;
    then the first that finds its own deep in the folder; then a table that lies alone beside recordings. UserError,
    with what to give in its place, where there is none of these.
    """
    if not source.exists():
        raise UserError(no_such(source, "give a corpus folder or a manifest"))
    if source.is_dir():
        recognition.require_no_shards(source)
    for name, importer in IMPORTERS.items():
        if importer.recognises(source):
            return name, source
    manifests = recognition.manifests_in(source)
    if manifests:
        manifest = recognition.the_one_of(manifests)
        return _importer_of(manifest), manifest
    for name, importer in IMPORTERS.items():
        if importer.finds_deep is not None and importer.finds_deep(source):
            return name, source
    table = recognition.only_table_beside_recordings(source)
    if table is not None:
        return _importer_of(table), table  # which says what its columns lack
    raise UserError(recognition.hint(source))


def _importer_of(manifest: Path) -> str:
    return next(name for name, importer in IMPORTERS.items() if importer.recognises(manifest))
