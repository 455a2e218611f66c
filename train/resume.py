"""Going on: the newest whole checkpoint, if it is of this very run, or what differs."""

from pathlib import Path

from model.adapter import AdapterSpec
from model.errors import UserError
from model.weights import load_weights
from train.checkpoint import Checkpoint, find_newest, load_checkpoint
from train.config import Config
from train.identity import result_fields
from train.parts import Parts
from train.plan import Epochs
from train.world import World, decided_by_first, together


def resume(
    config: Config, world: World, folder: Path, parts: Parts, epochs: Epochs, allow_changes: bool
) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint, its weights already in the adapter; and what to say about it."""
    found, notes = decided_by_first(world, lambda: _newest(folder / "checkpoints"))
    if found is None:
        return None, notes
    checkpoint, changes = together(world, lambda: _take_up(Path(found), config, parts, epochs, allow_changes))
    notes += [f"changed since the run was started: {change}" for change in changes]
    return checkpoint, [*notes, f"resuming from {found} (written by {checkpoint.state.world_size} ranks)"]


def _take_up(
    path: Path, config: Config, parts: Parts, epochs: Epochs, allow_changes: bool
) -> tuple[Checkpoint, list[str]]:
    checkpoint = load_checkpoint(path)
    changes = _changes(checkpoint, config, parts)
    if not changes and checkpoint.state.plan != epochs.digest:
        changes = [f"the order of the data was {checkpoint.state.plan}, is {epochs.digest} (another numpy?)"]
    shapes = _shapes(checkpoint.card.spec, parts.card.spec)
    if shapes and allow_changes:
        raise UserError(
            f"{'; '.join(shapes)}: the weights of {path} do not fit that, so --allow-changes cannot carry them over; "
            "give another run.dir to train anew, or the recipe it was started with"
        )
    if changes and not allow_changes:
        todo = "another run.dir" if shapes else "another run.dir, or --allow-changes to go on all the same"
        raise UserError(
            f"{config.run.dir} was started differently: {'; '.join(changes)}; give the recipe it was started with, or "
            f"{todo}"
        )
    load_weights(parts.model.adapter, checkpoint.weights)
    return checkpoint, changes


def _shapes(before: AdapterSpec, now: AdapterSpec) -> list[str]:
    """What differs of that on which the shapes of the weights depend."""
    names = {
        "type": "model.adapter.type",
        "stack": "model.adapter.stack",
        "hidden": "model.adapter.hidden",
        "encoder_dim": "the encoder's width",
        "llm_dim": "the LLM's width",
    }
    pairs = {said: (getattr(before, name), getattr(now, name)) for name, said in names.items()}
    return [f"{said} was {old}, is {new}" for said, (old, new) in pairs.items() if old != new]


def _newest(folder: Path) -> tuple[str | None, list[str]]:
    path, faults = find_newest(folder)
    return None if path is None else str(path), faults


def _changes(checkpoint: Checkpoint, config: Config, parts: Parts) -> list[str]:
    before, now = checkpoint.state.recipe, result_fields(config)
    before = before | {
        "training data": checkpoint.state.data,
        "encoder": checkpoint.card.encoder,
        "LLM": checkpoint.card.llm,
    }
    now = now | {"training data": parts.corpus.index.digest(), "encoder": parts.card.encoder, "LLM": parts.card.llm}
    keys = sorted(before.keys() | now.keys())
    return [f"{key} was {before.get(key)}, is {now.get(key)}" for key in keys if before.get(key) != now.get(key)]
