"""Resumes from the newest whole checkpoint, if it is of this very run, or names what differs."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.progress import clock
from model.errors import UserError
from model.weights import AdapterCard, load_trained
from train.data.corpus import Corpus
from train.dist.collectives import World, all_ranks_or_raise, rank0_broadcast
from train.engine.checkpoint import Checkpoint, State, find_newest, load_checkpoint
from train.parts import Parts
from train.recipe.config import Config
from train.recipe.identity import default_of, result_fields
from train.report.time_left import reports, seconds_of

SHAPES = {  # of the adapter's fields, those on which its weights' shapes depend
    "type": "model.adapter.type",
    "stack": "model.adapter.stack",
    "hidden": "model.adapter.hidden",
    "layers": "model.adapter.layers",
    "queries": "model.adapter.queries",
    "weighted_layers": "the encoder's weighted layers",
    "encoder_dim": "the encoder's width",
    "llm_dim": "the LLM's width",
}


def find_checkpoint(world: World, folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint of a run, and lines about it and damaged ones. A collective."""
    path, lines = rank0_broadcast(world, lambda: find_newest(folder / "checkpoints"))
    if path is None:
        return None, lines
    checkpoint = all_ranks_or_raise(world, lambda: load_checkpoint(path))
    state = checkpoint.state
    records = rank0_broadcast(world, lambda: reports(folder))
    lost, line = seconds_of(records, state.step), f"resuming from {path} (written by {state.world_size} ranks)"
    if records:
        line += f", after {clock(seconds_of(records) - lost)} of training"
    if lost:
        line += f"; {clock(lost)} of work after it, up to step {records[-1]['step']}, is lost and done again"
    return checkpoint, [*lines, line]


def restore(checkpoint: Checkpoint, config: Config, parts: Parts, plan: str, allow_changes: bool) -> list[str]:
    """Loads a checkpoint's weights into adapter and LoRA; lines about changes. UserError as `require_same_run`."""
    changes = require_same_run(checkpoint, config, parts, plan, allow_changes)
    load_trained(parts.model, checkpoint.weights)
    lines = [f"changed since the run was started: {change}" for change in changes]
    before, by = checkpoint.state, config.save.best
    if before.step and by != "none" and (why := _not_comparable(before, by, parts.dev)):
        lines.append(f"{why}: evaluations up to step {before.step} do not count")
    return lines


def comparable(state: State, by: str, dev: Corpus | None) -> State:
    """The state of a run whose save.best is now `by`, on `dev`: the best loss so far, say, does not compare with a WER,
    nor the WER of a few utterances with that of others."""
    if not _not_comparable(state, by, dev):
        return state
    return replace(state, best_by=by, best=None, best_step=None, misses=0)


def _not_comparable(state: State, by: str, dev: Corpus | None) -> str:
    """Why the best score so far does not compare with later ones; empty if it does. An earlier version, which kept no
    `dev`, took the first utterances, where now some from all of the set are taken."""
    if state.best_by != by:
        return f"save.best was {state.best_by}, is {by}"
    if dev is None or state.best is None or state.dev == dev.chosen or (state.dev is None and dev.whole):
        return ""
    return "the utterances of data.dev are others than before"


def require_same_run(checkpoint: Checkpoint, config: Config, parts: Parts, plan: str, allow_changes: bool) -> list[str]:
    """What differs between a checkpoint and what is to be trained now, a phrase each; `plan` is the data's digest.

    UserError for any difference, unless `allow_changes`; for an adapter of other shapes than the checkpoint's always.
    """
    before, card = checkpoint.state, parts.card
    recipes = before.recipe, result_fields(config, parts.init_sha256)
    recipes = [recipe | _defaults(recipes, without=recipe) for recipe in recipes]
    both_have_lora = checkpoint.card.lora is not None and card.lora is not None
    facts = [facts_of_models(own) | (_targets(own) if both_have_lora else {}) for own in (checkpoint.card, card)]
    changes = differences(
        recipes[0] | {"training data": before.data} | facts[0],
        recipes[1] | {"training data": parts.corpus.index.digest()} | facts[1],
    )
    if not changes and plan != before.plan:
        changes = [f"the order of the data was {before.plan}, is {plan} (another numpy?)"]
    shapes = shape_changes(checkpoint.card, card)
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


def _defaults(recipes: Iterable[Mapping[str, Any]], without: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of keys that one of two recipes lacks, because it was written by an earlier version or does not use
    them."""
    return {key: default_of(key) for recipe in recipes for key in recipe if key not in without}


def shape_changes(before: AdapterCard, now: AdapterCard) -> list[str]:
    """Differences between two cards that change the shapes of trained weights, a phrase each."""
    fields = [{key: getattr(card.spec, name) for name, key in SHAPES.items()} for card in (before, now)]
    for sizes, card in zip(fields, (before, now), strict=True):
        sizes["lora.rank"] = card.lora.rank if card.lora else 0
        sizes |= _targets(card)
    return differences(*fields)


def _targets(card: AdapterCard) -> dict[str, Any]:
    """The layers with LoRA by name, in whatever order; {} without LoRA."""
    return {"lora.targets": sorted(set(card.lora.targets))} if card.lora else {}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two sets of facts, a phrase each."""
    return [
        f"{key} was {_on_one_line(before.get(key))}, is {_on_one_line(now.get(key))}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]


def _on_one_line(value: Any) -> Any:
    return repr(value) if "\n" in str(value) else value


def facts_of_models(card: AdapterCard) -> dict[str, Any]:
    """The fingerprints of encoder and LLM, and the prompt's text, as {name in messages: value}."""
    prompt = {"model.prompt": card.prompt, "model.chat_user": None, "model.chat_system": None}
    models = {"encoder": card.encoder, "LLM": card.llm}
    return prompt | {f"the {name}'s {part}": value for name, model in models.items() for part, value in model.items()}
