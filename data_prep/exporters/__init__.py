"""Datasets for other toolkits, from shards: formats.py has one function for each.

Fields that a format has no place for are written under their own names beside the format's, so that importing the
result gives the same utterances, and building from it the same FLAC, byte by byte. May import importers, shards, audio.
Begin with formats.py; a new format is one function there and one line in EXPORTERS."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from model.errors import UserError

if TYPE_CHECKING:  # the command needs the names alone, without numpy
    from data_prep.shards.index import ShardIndex

EXPORTERS = {  # format: what it writes; its function is the one of that name in formats.py
    "nemo": "manifest.json and audio files",
    "nemo_tarred": "tarred_audio_manifest.json and audio_N.tar",
    "kaldi": "wav.scp, text, utt2spk ... and audio files",
    "wenet": "data.list and audio files",
    "wenet_shards": "shards.list and tars",
    "slam_llm": "multitask.jsonl and audio files",
}


def export(index: "ShardIndex", out: Path, kind: str, wav: bool = False) -> Path:
    """Writes the audio dataset to `out` in the format `kind`; returns the manifest, written last, or its folder.

    With `wav`, 16-bit WAV in place of the bytes in the shards, for tools that cannot read FLAC. UserError: features, a
    folder that is not empty, a full disk, shards that do not hold what their index says."""
    from data_prep.durable import FULL
    from data_prep.exporters import formats
    from data_prep.progress import Progress

    if index.kind != "audio":
        raise UserError(f"{index.root} holds {index.kind}, no recordings; export the directory they were made from")
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise UserError(f"{out} is not empty; give a new folder, or remove what an interrupted export left")
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror}; give another folder") from None
    try:
        with Progress(len(index), label="export") as progress:
            return getattr(formats, kind)(formats.read_clips(index, wav, progress), out)
    except OSError as error:
        if error.errno not in FULL:
            raise
        shutil.rmtree(out, ignore_errors=True)
        raise UserError(
            f"no space left for {out} ({error.strerror}), what was written of it is removed; make room and run it again"
        ) from None
