"""Whether the shards and models of a recipe are there, and how fast shards are read from this host."""

import hashlib
import time
from pathlib import Path

import numpy as np
import torch

from data_prep.figures import counted
from data_prep.shards.index import ShardError, ShardIndex
from data_prep.shards.tar import read_sample
from launch.doctor.finding import FAIL, OK, WARN, Finding
from model.errors import TransientError, UserError
from model.loading.pretrained import local_folder
from train.data.indexes import open_data
from train.preflight import preflight
from train.recipe.config import Config

UTTERANCES = 64
SLOW_MB_PER_S = 5.0
"""Reading FLAC at the floor of one fast GPU takes some 80 MB/s, from a loaded disk of a laptop some 20."""
SMALL_BYTES = 1_000_000
ABOUT_A_MODEL = (".json", ".safetensors", ".bin", ".model", ".txt")


def shards(config: Config, rank: int, reads: bool) -> tuple[list[Finding], dict[str, str]]:
    """What identifies the data and, where it `reads`, whether some utterances, others on each rank, can be read."""
    try:
        indexes = open_data(config)
    except UserError as error:
        return [Finding("shards", FAIL, str(error), mistake=not isinstance(error, TransientError))], {}
    named = [("data.train", indexes.train), *([("data.dev", indexes.dev)] if indexes.dev is not None else [])]
    return [_read(name, index, rank) for name, index in named if reads], indexes.digests()


def _read(name: str, index: ShardIndex, rank: int) -> Finding:
    chosen = np.random.default_rng(rank).permutation(len(index))[:UTTERANCES]
    began, read = time.monotonic(), 0
    for i in chosen.tolist():
        try:
            read += len(read_sample(index, i).media)
        except (ShardError, OSError) as error:
            return Finding("shards", FAIL, f"{name}: {error}", f"`slam-asr prep check {index.root}` reads all of it")
    seconds = max(1e-6, time.monotonic() - began)
    speed = read / 1e6 / seconds
    said = f"{name}: {len(chosen)} of {counted(len(index), 'utterance')} read"
    slow = speed < SLOW_MB_PER_S and seconds > 1
    todo = "training will wait for it: stage the shards on a faster disk" if slow else ""
    return Finding("shards", WARN if slow else OK, said, todo, figure=speed, unit="MB/s")


def models(config: Config) -> tuple[list[Finding], dict[str, str]]:
    """Whether encoder and LLM are on this host; and what identifies their files, quickly: sizes, and small contents."""
    found, identities = [], {}
    for what, source in (("encoder", config.model.encoder), ("LLM", config.model.llm)):
        try:
            folder = model_folder(source)
        except UserError as error:
            found.append(Finding("models", FAIL, f"{what}: {error}", mistake=True))
            continue
        identities[what] = _identity(folder)
        found.append(Finding("models", OK, f"{what}: {source} is here"))
    return found, identities


def training(config: Config, device: torch.device, ranks: int, allow_changes: bool) -> list[Finding]:
    """What training itself would refuse before its first step, and what of the recipe does not suit its data."""
    result = preflight(config, open_data(config), device, ranks, allow_changes)
    found = [
        Finding("training", FAIL, str(error), mistake=not isinstance(error, TransientError))
        for error in result.refusals
    ]
    found += [Finding("training", WARN, remark) for remark in result.remarks]
    return found or [Finding("training", OK, "the recipe suits its data, its models and the run")]


def model_folder(source: str) -> Path:
    """The folder of a model that needs no network any more. UserError where it is not here."""
    folder = local_folder(source)
    if folder is None:
        raise UserError(
            f"{source} is no folder and not in the cache of this host; fetch it with `hf download {source}`, or give a "
            "folder"
        )
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")) | any(folder.glob("*.bin")):
        raise UserError(f"{source} has no config.json or no weights; fetch it whole with `hf download {source}`")
    return folder


def _identity(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in ABOUT_A_MODEL and file.is_file():
            size = file.stat().st_size
            digest.update(f"{file.name} {size} ".encode())
            if size < SMALL_BYTES:
                digest.update(file.read_bytes())
    return digest.hexdigest()
