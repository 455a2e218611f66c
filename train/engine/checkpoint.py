"""Checkpoints that do not depend on the number of GPUs, and are whole or not there.

    checkpoints/step-00000400/   adapter.safetensors, adapter.json   the adapter: an export as it stands
                                 lora.safetensors                    the LoRA weights, if trained with LoRA
                                 optimizer.safetensors               AdamW's moments, unsharded, float32
                                 state.json                          step, recipe, fingerprints, best score so far
                                 MANIFEST.json                       length and sha256 of each
    checkpoints/best             link to the step with the best validation score

A checkpoint is written under a temporary name, fsynced and renamed; one that does not verify is named and passed over.
The frozen parts are not in it, nor is any random state: randomness is reseeded from (seed, step, micro-batch). Nothing
is ever unpickled."""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from data_prep.durable import sync_folder
from model.errors import UserError
from model.files import file_sha256
from model.weights import AdapterCard, read_adapter, save_adapter, write_synced

MANIFEST, STATE, OPTIMIZER = "MANIFEST.json", "state.json", "optimizer.safetensors"
VERSION = 2


@dataclass(frozen=True)
class State:
    """What a run must know to go on, besides weights and moments."""

    step: int  # optimizer steps done
    recipe: dict[str, Any]  # config.result_fields: all of the recipe that the weights follow from
    data: str  # identity of the training data
    plan: str  # digest of the first epoch's plan: another library version that shuffles otherwise is noticed
    world_size: int  # ranks that wrote it; shown, never required
    skipped: int  # steps that updated nothing
    lost: int  # utterances left out because they could not be read
    loss_scale: tuple[float, int]  # of float16: the scale, and the steps it has held
    best: float | None  # best validation score so far, lower is better; None before the first
    best_by: str = "none"  # what it is a score of: save.best
    best_step: int | None = None  # the step that has it
    misses: int = 0  # evaluations since it that count for eval.patience
    dev: str | None = None  # what they scored: Corpus.chosen; None in checkpoints of earlier versions
    version: int = VERSION


@dataclass(frozen=True)
class Checkpoint:
    """A whole training state: made by the loop, read by resume; its adapter also by export and decode."""

    card: AdapterCard
    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    state: State


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Writes `folder`/step-N and returns it; called by rank 0 alone."""
    final = folder / _name(checkpoint.state.step)
    temporary = folder / f".tmp-{final.name}-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_adapter(temporary, checkpoint.weights, checkpoint.card)
    write_synced(temporary / OPTIMIZER, save(checkpoint.moments))
    write_synced(temporary / STATE, _document(asdict(checkpoint.state)))
    write_synced(temporary / MANIFEST, _manifest(temporary))
    sync_folder(temporary)
    if final.exists():  # a checkpoint of this step that did not verify, or the run's last step saved again
        final.rename(folder / f".tmp-replaced-{final.name}-{os.getpid()}")
    temporary.rename(final)
    sync_folder(folder)
    return final


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _document(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def _manifest(folder: Path) -> bytes:
    files = sorted(folder.iterdir())
    return _document({file.name: {"bytes": file.stat().st_size, "sha256": file_sha256(file)} for file in files})


def clear_leftovers(folder: Path) -> None:
    """Removes what an interrupted save left under a temporary name."""
    for leftover in folder.glob(".tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def mark_best(folder: Path, step: int) -> None:
    """Points checkpoints/best at a step, if its checkpoint is there."""
    name = _name(step)
    if (folder / name).is_dir():
        link = folder / ".tmp-best"
        link.unlink(missing_ok=True)
        link.symlink_to(name)
        link.rename(folder / "best")


def keep_newest(folder: Path, limit: int, step: int) -> None:
    """Removes old checkpoints beyond the `limit` newest up to `step`, the one just written; the best stays besides. A
    later one was damaged and passed over, so it does not count."""
    best = folder / "best"
    spared = os.readlink(best) if best.is_symlink() else ""
    for old in sorted(path for path in folder.glob("step-*") if path.name <= _name(step))[:-limit]:
        if old.name != spared:
            shutil.rmtree(old)


def find_newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that verifies, and one line for each newer one that does not. UserError if there are
    checkpoints and none verifies: a run never starts again from nothing by itself."""
    faults = []
    for path in sorted(folder.glob("step-" + "[0-9]" * 8), reverse=True):
        if (fault := _fault(path)) is None:
            return path, faults
        faults.append(f"checkpoint {path.name} is damaged ({fault}) and is passed over")
    if faults:
        raise UserError(f"no checkpoint in {folder} is whole: {'; '.join(faults)}; move the folder away to start anew")
    return None, []


def _fault(path: Path) -> str | None:
    try:
        listed = json.loads((path / MANIFEST).read_text())
        for name, stated in listed.items():
            if "/" in name:
                return f"{MANIFEST} names {name!r}"
            if (path / name).stat().st_size != stated["bytes"]:
                return f"{name} has {(path / name).stat().st_size} bytes, not {stated['bytes']}"
            if file_sha256(path / name) != stated["sha256"]:
                return f"{name} does not match its sha256"
        lacking = {OPTIMIZER, STATE, "adapter.json", "adapter.safetensors"} - set(listed)
        return f"{MANIFEST} lacks {sorted(lacking)}" if lacking else None
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST}: {error}"


def load_checkpoint(path: Path) -> Checkpoint:
    """A verified checkpoint's content; UserError if it is of another version."""
    card, weights = read_adapter(path)
    stated = json.loads((path / STATE).read_text())
    if stated["version"] != VERSION:
        version = stated["version"]
        raise UserError(f"{path} has checkpoint version {version}, this code {VERSION}; use the code that wrote it")
    state = State(**stated | {"loss_scale": tuple(stated["loss_scale"])})
    return Checkpoint(card, weights, load((path / OPTIMIZER).read_bytes()), state)
