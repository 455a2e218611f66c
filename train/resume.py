"""Going on: the newest whole checkpoint, if it is of this very run, or what differs."""

from pathlib import Path

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
    if changes and not allow_changes:
        raise UserError(
            f"{config.run.dir} was started differently: {'; '.join(changes)}; give the recipe it was started with, "
            "another run.dir, or --allow-changes to go on all the same"
        )
    load_weights(parts.model.adapter, checkpoint.weights)
    return checkpoint, changes


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
