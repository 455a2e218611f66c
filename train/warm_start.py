"""Warm start: a run that begins with the weights of another run, checkpoint or export (model.init_from).

It counts at step 0 only: a run that has a checkpoint goes on from there. Where the recipe has `lora` and the source has
none, the adapter is the source's and LoRA begins at zero: a second stage."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from model.errors import UserError
from model.lora import PREFIX
from model.weights import AdapterCard, find_adapter, load_trained, read_adapter, read_card
from train.engine.checkpoint import Checkpoint
from train.parts import Parts
from train.recipe.config import Config, load_config
from train.resume import differences, facts_of_models, shape_changes

NAME = "model.init_from"


@dataclass(frozen=True)
class Source:
    """What a run begins with, or began with."""

    digest: str  # sha256 of its weights files
    folder: Path | None = None  # None of a run that has a checkpoint: only the digest counts there
    card: AdapterCard | None = None
    weights: dict[str, Tensor] | None = None


def open_source(config: Config, checkpoint: Checkpoint | None) -> Source | None:
    """The adapter of model.init_from; None if the recipe names none. UserError if it is not there, or damaged. For a
    run with a checkpoint it need not be there any more; under the path that the run was last given, it may be a run
    that has gone on since, to other weights."""
    given = config.model.init_from
    if given is None:
        return None
    if checkpoint is not None:
        begun_with = Source(checkpoint.state.recipe.get(NAME, ""))
        try:
            return begun_with if given == _given_before(config) else Source(read_card(find_adapter(given)).digest)
        except UserError:
            return begun_with
    try:
        folder = find_adapter(given)
        card, weights = read_adapter(folder)
    except UserError as error:
        raise UserError(f"{NAME}: {error}") from None
    return Source(card.digest, folder, card, weights)


def _given_before(config: Config) -> str | None:
    """The model.init_from with which the run was last started or resumed."""
    try:
        return load_config(Path(config.run.dir) / "config.yaml").model.init_from
    except UserError:
        return None


def require_fitting(source: Source, card: AdapterCard, allow_changes: bool) -> list[str]:
    """Lines about the source of a new run with the parts of `card`, and what differs between the two.

    UserError for weights of other shapes; for LoRA that the recipe lacks; and, unless `allow_changes`, if the source
    was trained with another encoder, LLM or prompt."""
    assert source.card is not None and source.folder is not None
    theirs, where = source.card, f"{NAME} {source.folder}"
    if theirs.lora is not None and card.lora is None:
        raise UserError(
            f"{where} has LoRA of rank {theirs.lora.rank}, without which its adapter is of no use, and the recipe has "
            f"none; set lora.rank={theirs.lora.rank}, lora.alpha={theirs.lora.alpha:g} and lora.targets="
            f"[{', '.join(theirs.lora.targets)}], or merge it into the LLM first (slam-asr export --merge)"
        )
    begun = card if theirs.lora is not None else replace(card, lora=None)
    if shapes := shape_changes(theirs, begun):
        raise UserError(f"the weights of {where} are of other shapes: {'; '.join(shapes)}; set the recipe's as theirs")
    changes = differences(_facts(theirs), _facts(begun))
    if changes and not allow_changes:
        raise UserError(
            f"{where} was trained differently: {'; '.join(changes)}; give the recipe what it was trained with, or "
            "--allow-changes to begin with it all the same"
        )
    parts = "adapter and LoRA" if theirs.lora else "adapter"
    new = "; LoRA is new" if card.lora and not theirs.lora else ""
    line = f"beginning with the {parts} of {source.folder}, of step {theirs.step}{new}"
    return [line, *(f"changed since {source.folder} was trained: {change}" for change in changes)]


def _facts(card: AdapterCard) -> dict[str, Any]:
    """All that decides what an adapter computes besides its weights."""
    facts = {f"model.adapter.{name}": value for name, value in asdict(card.spec).items()}
    facts["model.adapter.match_norm"] = facts.pop("model.adapter.output_rms") > 0  # the LLM's, which is compared
    facts |= facts_of_models(card) | {"model.prompt": card.prompt, "lora.alpha": card.lora.alpha if card.lora else None}
    without_effect = {"model.adapter.dropout", "the encoder's dtype"}
    return {name: value for name, value in facts.items() if name not in without_effect}


def begin(source: Source, parts: Parts, allow_changes: bool) -> list[str]:
    """Puts the source's weights into the model of a new run; lines and errors as `require_fitting`."""
    lines = require_fitting(source, parts.card, allow_changes)
    assert source.card is not None and source.weights is not None
    fresh = {} if source.card.lora else {n: p.detach() for n, p in parts.model.trained.items() if n.startswith(PREFIX)}
    load_trained(parts.model, source.weights | fresh)
    return lines
