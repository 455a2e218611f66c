"""Resuming: the newest whole checkpoint, if it is of this very run, or what differs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model.adapter import AdapterSpec
from model.errors import UserError
from model.weights import load_weights
from train.data.plan import Epochs
from train.dist.collectives import World, decided_by_first, together
from train.engine.checkpoint import Checkpoint, find_newest, load_checkpoint, read_state
from train.parts import Parts
from train.recipe.config import Config
from train.recipe.identity import result_fields


def find_checkpoint(world: World, folder: Path) -> tuple[Path | None, dict[str, Any], list[str]]:
    """The newest whole checkpoint of a run, the recipe it was made with, and what to say about damaged ones.

    A collective.
    """
    path, recipe, notes = decided_by_first(world, lambda: _newest(folder / "checkpoints"))
    return Path(path) if path else None, recipe, notes


def _newest(folder: Path) -> tuple[str, dict[str, Any], list[str]]:
    path, faults = find_newest(folder)
    return ("", {}, faults) if path is None else (str(path), read_state(path).recipe, faults)


def resume(
    config: Config, world: World, path: Path, parts: Parts, epochs: Epochs, allow_changes: bool
) -> tuple[Checkpoint, list[str]]:
    """The checkpoint in `path`, its weights already in the adapter; and what to say about it. A collective.

    UserError if it is of another recipe or other data, unless `allow_changes`.
    """
    checkpoint, changes = together(world, lambda: _take_up(path, config, parts, epochs, allow_changes))
    notes = [f"changed since the run was started: {change}" for change in changes]
    return checkpoint, [*notes, f"resuming from {path} (written by {checkpoint.state.world_size} ranks)"]


def _take_up(
    path: Path, config: Config, parts: Parts, epochs: Epochs, allow_changes: bool
) -> tuple[Checkpoint, list[str]]:
    checkpoint = load_checkpoint(path)
    identities = {
        "training data": parts.corpus.index.digest(),
        "encoder": parts.card.encoder,
        "LLM": parts.card.llm,
        "order of the data": epochs.digest,
    }
    changes = changes_since(checkpoint, config, identities)
    require_same_run(config, checkpoint, changes, parts.card.spec, allow_changes)
    load_weights(parts.model.adapter, checkpoint.weights)
    return checkpoint, changes


def changes_since(checkpoint: Checkpoint, config: Config, identities: Mapping[str, Any]) -> list[str]:
    """What differs between a checkpoint and what is to be trained now, a phrase each.

    `identities` are those of now: "training data", "encoder", "LLM", "order of the data".
    """
    card, state = checkpoint.card, checkpoint.state
    identity = {"training data": state.data, **_parts("encoder", card.encoder), **_parts("LLM", card.llm)}
    before = state.recipe | identity
    now = result_fields(config) | {"training data": identities["training data"]}
    now |= _parts("encoder", identities["encoder"]) | _parts("LLM", identities["LLM"])
    order = identities["order of the data"]
    changes = [
        f"{key} was {before.get(key)}, is {now.get(key)}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if not changes and order != checkpoint.state.plan:
        changes = [f"the order of the data was {checkpoint.state.plan}, is {order} (another numpy?)"]
    return changes


def _parts(name: str, fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    return {f"the {name}'s {part}": value for part, value in fingerprint.items()}


def require_same_run(
    config: Config, checkpoint: Checkpoint, changes: Sequence[str], spec: AdapterSpec, allow_changes: bool
) -> None:
    """UserError if a run is to go on with something else than it was started with, unless `allow_changes`.

    An adapter of other shapes than the checkpoint's, `spec`, is refused all the same.
    """
    shapes = _shapes(checkpoint.card.spec, spec)
    if shapes and allow_changes:
        raise UserError(
            f"{'; '.join(shapes)}: the weights of step {checkpoint.state.step} in {config.run.dir} do not fit that, so "
            "--allow-changes cannot carry them over; "
            "give another run.dir to train anew, or the recipe it was started with"
        )
    if changes and not allow_changes:
        todo = "another run.dir" if shapes else "another run.dir, or --allow-changes to go on all the same"
        raise UserError(
            f"{config.run.dir} was started differently: {'; '.join(changes)}; give the recipe it was started with, or "
            f"{todo}"
        )


def _shapes(before: AdapterSpec, now: AdapterSpec) -> list[str]:
    """What differs of that on which the shapes of the weights depend."""
    names = {
        "type": "model.adapter.type",
        "stack": "model.adapter.stack",
        "hidden": "model.adapter.hidden",
        "encoder_dim": "the encoder's width",
        "llm_dim": "the LLM's width",
    }
    pairs = {what: (getattr(before, name), getattr(now, name)) for name, what in names.items()}
    return [f"{what} was {old}, is {new}" for what, (old, new) in pairs.items() if old != new]
