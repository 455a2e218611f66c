"""Datasets for other toolkits, from shards. One file a kind, each with

export(index, out, options, progress) -> Path    fills an empty folder; returns what to give to the importer

Everything that an utterance has goes along: what a format has no place for stands in fields of ours beside its own, so
that importing the result gives the same utterances, and building from it the same FLAC, byte by byte.
"""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from model.errors import UserError

if TYPE_CHECKING:  # the command asks for the names alone
    from data_prep.shards.index import ShardIndex

EXPORTERS = {  # kind: what it writes; its module is data_prep.exporters.KIND
    "nemo": "manifest.json and audio files",
    "nemo_tarred": "tarred_audio_manifest.json and audio_N.tar",
    "kaldi": "wav.scp, text, utt2spk ... and audio files",
    "wenet": "data.list and audio files",
    "wenet_shards": "shards.list and tars",
    "slam_llm": "multitask.jsonl and audio files",
}


def export(index: ShardIndex, out: Path, kind: str, wav: bool = False) -> Path:
    """Writes the audio dataset to `out` for the toolkit `kind`; the manifest comes last. Returns that, or its folder.

    With `wav`, 16-bit WAV in place of the bytes that lie in the shards. UserError: features, a folder that is not
    empty, a full disk, shards that do not hold what their index says.
    """
    from data_prep.durable import FULL
    from data_prep.exporters.clips import ExportOptions, make_empty_folder
    from data_prep.progress import Progress

    if index.kind != "audio":
        raise UserError(f"{index.root} holds {index.kind}, no recordings; export the directory they were made from")
    make_empty_folder(out)
    write = importlib.import_module(f"data_prep.exporters.{kind}").export
    try:
        return write(index, out, ExportOptions(wav), Progress(len(index), label="export"))
    except OSError as error:
        if error.errno not in FULL:
            raise
        shutil.rmtree(out, ignore_errors=True)
        raise UserError(
            f"no space left for {out} ({error.strerror}), what was written of it is removed; make room and run it again"
        ) from None
