"""Whether the shards and models of a recipe are there, and how fast shards are read from this host."""

import hashlib
import time
from pathlib import Path

import numpy as np
import torch

from data_prep.figures import counted
from data_prep.shards.index import ShardError, ShardIndex
from data_prep.shards.tar import read_sample
from launch.doctor.result import FAIL, OK, WARN, CheckResult
from model.errors import TransientError, UserError
from model.loading import local_folder
from train.data.indexes import open_data
from train.preflight import preflight
from train.recipe.config import Config

UTTERANCES = 64
SLOW_MB_PER_S = 5.0
"""Reading FLAC at the floor of one fast GPU takes some 80 MB/s, from a loaded disk of a laptop some 20."""
SMALL_BYTES = 1_000_000
MODEL_FILES = (".json", ".safetensors", ".bin", ".model", ".txt")


def shards(config: Config, rank: int, reads: bool) -> tuple[list[CheckResult], dict[str, str]]:
    """Whether some utterances, others on each rank, can be read, where it `reads`; and what identifies the data."""
    try:
        indexes = open_data(config)
    except UserError as error:
        return [refused("shards", error)], {}
    named = [("data.train", indexes.train), *([("data.dev", indexes.dev)] if indexes.dev is not None else [])]
    return [_read(name, index, rank) for name, index in named if reads], indexes.digests()


def refused(check: str, error: UserError) -> CheckResult:
    """What training would refuse with this error."""
    return CheckResult(check, FAIL, str(error), permanent=not isinstance(error, TransientError))


def _read(name: str, index: ShardIndex, rank: int) -> CheckResult:
    chosen = np.random.default_rng(rank).permutation(len(index))[:UTTERANCES]
    began, size = time.monotonic(), 0
    for i in chosen.tolist():
        try:
            size += len(read_sample(index, i).media)
        except (ShardError, OSError) as error:
            todo = f"`slam-asr prep check {index.root}` reads all of it"
            return CheckResult("shards", FAIL, f"{name}: {error}", todo)
    seconds = max(1e-6, time.monotonic() - began)
    speed = size / 1e6 / seconds
    slow = speed < SLOW_MB_PER_S and seconds > 1
    return CheckResult(
        "shards",
        WARN if slow else OK,
        f"{name}: {len(chosen)} of {counted(len(index), 'utterance')} read",
        "training will wait for it: copy the shards to a faster disk" if slow else "",
        figure=speed,
        unit="MB/s",
    )


def models(config: Config) -> tuple[list[CheckResult], dict[str, str]]:
    """Whether encoder and LLM are on this host; and what identifies their files, quickly: sizes, and small contents."""
    results, identities = [], {}
    for what, source in (("encoder", config.model.encoder), ("LLM", config.model.llm)):
        try:
            identities[what] = _identity(model_folder(source))
            results.append(CheckResult("models", OK, f"{what}: {source} is here"))
        except UserError as error:
            results.append(CheckResult("models", FAIL, f"{what}: {error}", permanent=True))
    return results, identities


def training(config: Config, device: torch.device, ranks: int, allow_changes: bool) -> list[CheckResult]:
    """What training itself would refuse before its first step, and what of the recipe does not suit its data."""
    result = preflight(config, open_data(config), device, ranks, allow_changes)
    results = [refused("training", error) for error in result.refusals]
    results += [CheckResult("training", WARN, remark) for remark in result.remarks]
    return results or [CheckResult("training", OK, "the recipe suits its data, its models and the run")]


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
        if file.suffix in MODEL_FILES and file.is_file():
            size = file.stat().st_size
            digest.update(f"{file.name} {size} ".encode())
            if size < SMALL_BYTES:
                digest.update(file.read_bytes())
    return digest.hexdigest()
