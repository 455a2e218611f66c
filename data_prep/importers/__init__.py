"""One file a corpus; a new corpus is one file here and one line in IMPORTERS."""

from __future__ import annotations

from pathlib import Path

from data_prep.importers.audiofolder import import_audiofolder, is_audiofolder
from data_prep.importers.common_voice import import_common_voice, is_common_voice
from data_prep.importers.huggingface import import_parquet, is_parquet
from data_prep.importers.jsonl import import_jsonl, is_jsonl
from data_prep.importers.kaldi import import_kaldi, is_kaldi
from data_prep.importers.lhotse import import_lhotse, is_lhotse
from data_prep.importers.librispeech import import_librispeech, is_librispeech
from data_prep.importers.ljspeech import import_ljspeech, is_ljspeech
from data_prep.importers.nemo import import_nemo, is_nemo
from data_prep.importers.options import Importer, ImportOptions
from data_prep.importers.shar import import_shar, is_shar
from data_prep.importers.slam_llm import import_slam_llm, is_slam_llm
from data_prep.importers.table import import_table, is_table
from data_prep.importers.webdataset import import_webdataset, is_webdataset
from data_prep.importers.wenet import import_wenet, is_wenet
from model.errors import UserError

__all__ = ["IMPORTERS", "ImportOptions", "Importer", "guess_importer"]

ROWS = ("audio_root", "columns")
SPLITS = ("audio_root", "columns", "split")

IMPORTERS: dict[str, Importer] = {
    "librispeech": Importer(import_librispeech, is_librispeech, "the folder LibriSpeech was unpacked to, or a split"),
    "common_voice": Importer(
        import_common_voice, is_common_voice, "the folder of one language, with clips/ in it", SPLITS
    ),
    "ljspeech": Importer(import_ljspeech, is_ljspeech, "a folder with metadata.csv and wavs/", ("audio_root",)),
    "nemo": Importer(import_nemo, is_nemo, "a NeMo manifest, or the folder of a tarred set", ROWS),
    "slam_llm": Importer(
        import_slam_llm, is_slam_llm, "SLAM-LLM's .jsonl, or the folder that holds multitask.jsonl", ROWS
    ),
    "wenet": Importer(import_wenet, is_wenet, "WeNet's data.list or shards.list, or a folder of its tars", ROWS),
    "kaldi": Importer(import_kaldi, is_kaldi, "a Kaldi data directory: wav.scp, text, segments ...", ("audio_root",)),
    "shar": Importer(import_shar, is_shar, "a folder of cuts.*.jsonl.gz and recording.*.tar that lhotse wrote"),
    "lhotse": Importer(
        import_lhotse,
        is_lhotse,
        "lhotse cuts, or recordings with supervisions: a file or their folder",
        ("audio_root", "split"),
    ),
    "audiofolder": Importer(
        import_audiofolder, is_audiofolder, "a folder with metadata.csv or .jsonl of file names", SPLITS
    ),
    "parquet": Importer(import_parquet, is_parquet, "a Hugging Face data set as .parquet, a file or a folder", SPLITS),
    "table": Importer(import_table, is_table, "a .csv or .tsv with a line of column names", ROWS),
    "jsonl": Importer(import_jsonl, is_jsonl, "a .jsonl manifest with audio and text, of ours or alike", ROWS),
    "webdataset": Importer(
        import_webdataset, is_webdataset, "tars of samples (a.wav a.txt), or a folder of such tars", ("columns",)
    ),
}


def guess_importer(source: Path) -> str:
    """The first kind that recognises `source`; UserError if none does."""
    if not source.exists():
        raise UserError(f"there is no {source}; give a corpus folder or a manifest")
    for name, importer in IMPORTERS.items():
        if importer.recognises(source):
            return name
    raise UserError(f"{source} is of no kind that is known; name it: --importer {', '.join(IMPORTERS)}")
