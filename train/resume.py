"""Resumes from the newest whole checkpoint, if it is of this very run, or names what differs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.errors import UserError
from model.weights import AdapterCard, load_weights
from train.dist.collectives import World, all_ranks_or_raise, rank0_broadcast
from train.engine.checkpoint import Checkpoint, find_newest, load_checkpoint
from train.parts import Parts
from train.recipe.config import Config
from train.recipe.identity import result_fields

SHAPES = {  # of the adapter's fields, those on which its weights' shapes depend
    "type": "model.adapter.type",
    "stack": "model.adapter.stack",
    "hidden": "model.adapter.hidden",
    "encoder_dim": "the encoder's width",
    "llm_dim": "the LLM's width",
}


def find_checkpoint(world: World, folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint of a run, and lines about it and damaged ones. A collective."""
    path, lines = rank0_broadcast(world, lambda: find_newest(folder / "checkpoints"))
    if path is None:
        return None, lines
    checkpoint = all_ranks_or_raise(world, lambda: load_checkpoint(path))
    return checkpoint, [*lines, f"resuming from {path} (written by {checkpoint.state.world_size} ranks)"]


def restore(checkpoint: Checkpoint, config: Config, parts: Parts, plan: str, allow_changes: bool) -> list[str]:
    """Puts a checkpoint's weights into the adapter; lines about what changed. UserError as `require_same_run`."""
    changes = require_same_run(checkpoint, config, parts, plan, allow_changes)
    load_weights(parts.model.adapter, checkpoint.weights)
    return [f"changed since the run was started: {change}" for change in changes]


def require_same_run(checkpoint: Checkpoint, config: Config, parts: Parts, plan: str, allow_changes: bool) -> list[str]:
    """What differs between a checkpoint and what is to be trained now, a phrase each; `plan` is the data's digest.

    UserError for any difference, unless `allow_changes`; for an adapter of other shapes than the checkpoint's always.
    """
    before, card = checkpoint.state, parts.card
    changes = _changes(
        before.recipe | {"training data": before.data} | _models(checkpoint.card),
        result_fields(config) | {"training data": parts.corpus.index.digest()} | _models(card),
    )
    if not changes and plan != before.plan:
        changes = [f"the order of the data was {before.plan}, is {plan} (another numpy?)"]
    specs = [{what: getattr(spec, name) for name, what in SHAPES.items()} for spec in (checkpoint.card.spec, card.spec)]
    shapes = _changes(*specs)
    if shapes and allow_changes:
        raise UserError(
            f"{'; '.join(shapes)}: the weights of step {before.step} in {config.run.dir} do not fit that, so "
            "--allow-changes cannot carry them over; give another run.dir to train anew, or the recipe it was started "
            "with"
        )
    if changes and not allow_changes:
        todo = "another run.dir" if shapes else "another run.dir, or --allow-changes to go on all the same"
        raise UserError(
            f"{config.run.dir} was started differently: {'; '.join(changes)}; give the recipe it was started with, or "
            f"{todo}"
        )
    return changes


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{key} was {_on_one_line(before.get(key))}, is {_on_one_line(now.get(key))}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]


def _on_one_line(value: Any) -> Any:
    return repr(value) if "\n" in str(value) else value


def _models(card: AdapterCard) -> dict[str, Any]:
    """What identifies encoder and LLM, and the prompt as it was made of the recipe's texts."""
    prompt = {"model.prompt": card.prompt, "model.chat_user": None, "model.chat_system": None}
    models = {"encoder": card.encoder, "LLM": card.llm}
    return prompt | {f"the {name}'s {part}": value for name, model in models.items() for part, value in model.items()}
