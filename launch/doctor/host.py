"""Checks of one host: models, shards, the recipe, disk, ports, compilation locks. None changes anything."""

import hashlib
import os
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data_prep.figures import in_units, table
from data_prep.paths import free_bytes, nearest_folder
from data_prep.shards.index import ShardError, ShardIndex
from data_prep.shards.tar import read_sample
from model.errors import TransientError, UserError, counted
from model.gguf import is_gguf
from model.loading import local_folder, place_to_open
from train.data.indexes import open_data
from train.preflight import preflight
from train.recipe.config import Config

OK, WARN, FAIL = "ok", "warn", "FAIL"


@dataclass(frozen=True)
class CheckResult:
    """Of one check, on one host or over all ranks."""

    check: str
    level: str  # ok, warn (a training will run) or FAIL (it would not, or not correctly)
    what: str
    todo: str = ""
    where: str = ""  # the host; "" for all of them together
    figure: float | None = None  # may differ from host to host without being another result
    unit: str = ""
    permanent: bool = False  # of a FAIL: whether another try, on other hosts, would fail too


def failures(results: Sequence[CheckResult]) -> int:
    """Different things that would stop a training."""
    return len({(result.check, result.what) for result in results if result.level == FAIL})


def lines_of(results: Sequence[CheckResult]) -> list[str]:
    """A table; what is the same on several hosts is one line, and what is wrong comes last, with what to do."""
    merged: dict[tuple[str, str, str, str], list[CheckResult]] = {}
    for result in sorted(results, key=lambda result: (OK, WARN, FAIL).index(result.level)):
        merged.setdefault((result.level, result.check, result.what, result.todo), []).append(result)
    rows = [
        (level, check, _hosts(same), f"{what}{_figures(same)}" + (f"; {todo}" if todo else ""))
        for (level, check, what, todo), same in merged.items()
    ]
    return table(rows, left=(0, 1, 2, 3))


def _figures(same: Sequence[CheckResult]) -> str:
    figures = sorted(result.figure for result in same if result.figure is not None)
    ends = [f"{figure:,.3g}" if figure < 1000 else f"{figure:,.0f}" for figure in (*figures[:1], *figures[-1:])]
    return f" ({' to '.join(dict.fromkeys(ends))} {same[0].unit})" if ends else ""


def _hosts(same: Sequence[CheckResult]) -> str:
    names = sorted({result.where for result in same if result.where})
    return f"{', '.join(names[:2])} and {len(names) - 2} more" if len(names) > 3 else ", ".join(names) or "all"


UTTERANCES = 64
SLOW_MB_PER_S = 5.0
"""Reading FLAC at the floor of one fast GPU takes some 80 MB/s, from a loaded disk of a laptop some 20."""
SMALL_BYTES = 1_000_000
MODEL_FILES = (".json", ".safetensors", ".bin", ".model", ".txt")
CHECKPOINT_BYTES = 300e6
"""Adapter and AdamW's moments of 21 M parameters in float32 (258 MB), and some."""
OLD_LOCK_SECONDS = 60.0


def models(config: Config) -> tuple[list[CheckResult], dict[str, str]]:
    """Whether encoder and LLM are on this host; and digests of their files, by sizes and small contents."""
    results, identities = [], {}
    for what, source in (("encoder", config.model.encoder), ("LLM", config.model.llm)):
        try:
            files = sorted(file for file in _model_folder(source).iterdir() if file.suffix in MODEL_FILES)
            digest = hashlib.sha256()
            for file, size in [(file, file.stat().st_size) for file in files if file.is_file()]:
                digest.update(f"{file.name} {size} ".encode() + (file.read_bytes() if size < SMALL_BYTES else b""))
            identities[what] = digest.hexdigest()
            results.append(CheckResult("models", OK, f"{what}: {source} is here"))
        except UserError as error:
            results.append(CheckResult("models", FAIL, f"{what}: {error}", permanent=True))
    return results, identities


def _model_folder(source: str) -> Path:
    """The local folder of a model, which can be loaded without a network. UserError if there is none."""
    folder = Path(place_to_open("LLM", source)) if is_gguf(source) else local_folder(source)
    if folder is None:
        raise UserError(
            f"{source} is no folder and not in the cache of this host; fetch it with `hf download {source}`, or give a "
            "folder"
        )
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")) | any(folder.glob("*.bin")):
        raise UserError(f"{source} has no config.json or no weights; fetch it whole with `hf download {source}`")
    return folder


def shards(config: Config, rank: int, reads: bool) -> tuple[list[CheckResult], dict[str, str]]:
    """Where it `reads`, whether some utterances, others on each rank, can be read; and the digests of the data."""
    try:
        indexes = open_data(config)
    except UserError as error:
        return [_refused("shards", error)], {}
    named = [("data.train", indexes.train), *([("data.dev", indexes.dev)] if indexes.dev is not None else [])]
    return [_read(name, index, rank) for name, index in named if reads], indexes.digests()


def _refused(check: str, error: UserError) -> CheckResult:
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
    speed, level, todo = size / 1e6 / seconds, OK, ""
    if speed < SLOW_MB_PER_S and seconds > 1:
        level, todo = WARN, "training will wait for it: copy the shards to a faster disk"
    what = f"{name}: {len(chosen)} of {counted(len(index), 'utterance')} read"
    return CheckResult("shards", level, what, todo, figure=speed, unit="MB/s")


def training(config: Config, device: torch.device, ranks: int, allow_changes: bool) -> list[CheckResult]:
    """What training itself would refuse before its first step, and what of the recipe does not suit its data."""
    refusal, remarks = preflight(config, open_data(config), device, ranks, allow_changes)
    results = [_refused("training", refusal)] if refusal else []
    results += [CheckResult("training", WARN, remark) for remark in remarks]
    return results or [CheckResult("training", OK, "the recipe suits its data, its models and the run")]


def disk(config: Config) -> Iterator[CheckResult]:
    """Room for checkpoints where the run keeps them, for cached features, and for temporary files."""
    run = Path(config.run.dir)
    saves = 2 if config.save.total_limit is None else config.save.total_limit + 2
    yield _room("run.dir", run, 2 * CHECKPOINT_BYTES, saves * CHECKPOINT_BYTES, "make room, or give another run.dir")
    there = nearest_folder(run)
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
        yield CheckResult("disk", OK, f"run.dir: can be written in {there}")
    except OSError as error:
        yield CheckResult("disk", FAIL, f"run.dir: cannot write in {there}: {error.strerror}", "give another run.dir")
    if config.data.write_features:
        todo = "`slam-asr plan` says how much the frames need"
        yield _room("data.write_features", Path(config.data.write_features), 1e9, 100e9, todo)
    yield _room("temporary files", Path(tempfile.gettempdir()), 100e6, 1e9, "make room, or set TMPDIR")


def _room(what: str, folder: Path, least: float, enough: float, todo: str) -> CheckResult:
    free = free_bytes(folder)
    level = OK if free >= enough else FAIL if free < least else WARN
    wanted = "" if level == OK else f", {in_units(round(enough))} are wanted"
    text = f"{what}: room in {folder}{wanted}"
    return CheckResult("disk", level, text, todo if wanted else "", figure=free / 1e9, unit="GB")


def locks() -> Iterator[CheckResult]:
    """Locks of torch's compiler that no process here holds: a process that needs that operator waits for ever."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "torch_extensions"
    stale = []
    for lock in Path(os.environ.get("TORCH_EXTENSIONS_DIR", home)).glob("**/lock"):
        with suppress(OSError):
            if time.time() - lock.stat().st_mtime > OLD_LOCK_SECONDS and not _is_open(lock):
                stale.append(lock)
    for lock in stale:
        yield CheckResult("locks", FAIL, f"{lock} is left from a build that was killed", f"rm {lock}")
    if not stale:
        yield CheckResult("locks", OK, "no lock of a killed compilation")


def _is_open(file: Path) -> bool:
    wanted = str(file.resolve())
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if any(os.readlink(link) == wanted for link in (process / "fd").iterdir()):
                return True
    return False


def port(number: str) -> CheckResult:
    """Whether rank 0 can listen on MASTER_PORT."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as torch's store does
        try:
            probe.bind(("", int(number)))
        except OSError as error:
            text = f"MASTER_PORT {number} cannot be listened on: {error.strerror}"
            return CheckResult("ports", FAIL, text, "give another MASTER_PORT")
    return CheckResult("ports", OK, f"MASTER_PORT {number} is free")
