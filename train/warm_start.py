"""Warm start: a run initialised with the weights of another run, checkpoint or export (model.init_from).

It is used at step 0 only: a run that has a checkpoint resumes from that. Layers that have LoRA in the recipe and none
in the source get it newly initialised: a second training stage, or LoRA in more layers."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from model.errors import UserError
from model.lora import PREFIX, LoraSpec
from model.weights import AdapterCard, find_adapter, load_trained, read_adapter, read_card
from train.engine.checkpoint import Checkpoint
from train.parts import Parts
from train.recipe.config import Config, load_config
from train.resume import differences, facts_of_models, shape_changes

NAME = "model.init_from"


@dataclass(frozen=True)
class Source:
    """The adapter that a run is initialised from."""

    digest: str  # sha256 of its weights files
    folder: Path | None = None  # None for a run that has a checkpoint, which needs the digest only
    card: AdapterCard | None = None
    weights: dict[str, Tensor] | None = None


def open_source(config: Config, checkpoint: Checkpoint | None) -> Source | None:
    """The adapter of model.init_from; None if the recipe names none. UserError if it is missing or damaged. For a run
    with a checkpoint it may be missing; under the path that the run was last given, it may be a run that has gone on
    training since, to other weights."""
    path = config.model.init_from
    if path is None:
        return None
    if checkpoint is not None:
        begun_with = Source(checkpoint.state.recipe.get(NAME, ""))
        try:
            return begun_with if path == _given_before(config) else Source(read_card(find_adapter(path)).digest)
        except UserError:
            return begun_with
    try:
        folder = find_adapter(path)
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
    """Lines about the source of a new run whose models are those of `card`, and about the differences between the two.

    UserError for weights of other shapes; for LoRA that the recipe lacks; and, unless `allow_changes`, if the source
    was trained with another encoder, LLM or prompt."""
    assert source.card is not None and source.folder is not None
    trained, where = source.card, f"{NAME} {source.folder}"
    if trained.lora is not None and card.lora is None:
        raise UserError(
            f"{where} has LoRA of rank {trained.lora.rank}, which its adapter was trained with, but the recipe has "
            f"none; set lora.rank={trained.lora.rank}, lora.alpha={trained.lora.alpha:g} and lora.targets="
            f"[{', '.join(trained.lora.targets)}], or merge it into the LLM first (slam-asr export --format merged)"
        )
    new = _new_layers(trained, card)
    initial = replace(card, lora=_without(new, card.lora))
    if shapes := shape_changes(trained, initial):
        raise UserError(f"the weights of {where} have other shapes: {'; '.join(shapes)}; set these as in the source")
    changes = differences(_facts(trained), _facts(initial))
    if changes and not allow_changes:
        raise UserError(
            f"{where} was trained differently: {'; '.join(changes)}; set the recipe as in the source, or give "
            "--allow-changes to start from it all the same"
        )
    parts = "adapter and LoRA" if trained.lora else "adapter"
    added = f"; LoRA is newly initialised in {', '.join(new)}" if new else ""
    line = f"starting from the {parts} of {source.folder}, of step {trained.step}{added}"
    return [line, *(f"changed since {source.folder} was trained: {change}" for change in changes)]


def _new_layers(trained: AdapterCard, card: AdapterCard) -> list[str]:
    """The layers that have LoRA in the recipe and not in the source."""
    return sorted(set(card.lora.targets if card.lora else ()) - set(trained.lora.targets if trained.lora else ()))


def _without(layers: list[str], lora: LoraSpec | None) -> LoraSpec | None:
    """The LoRA of the other layers; None if there are none."""
    left = [target for target in lora.targets if target not in layers] if lora else []
    return replace(lora, targets=tuple(left)) if lora and left else None


def _facts(card: AdapterCard) -> dict[str, Any]:
    """Everything besides its weights that determines the output of an adapter."""
    facts = {f"model.adapter.{name}": value for name, value in asdict(card.spec).items()}
    facts["model.adapter.match_norm"] = facts.pop("model.adapter.output_rms") > 0  # the LLM's, which is compared
    facts |= facts_of_models(card) | {"lora.alpha": card.lora.alpha if card.lora else None}
    without_effect = {"model.adapter.dropout", "the encoder's dtype"}
    return {name: value for name, value in facts.items() if name not in without_effect}


def begin(source: Source, parts: Parts, allow_changes: bool) -> list[str]:
    """Loads the source's weights into the model of a new run; lines and errors as `require_fitting`."""
    lines = require_fitting(source, parts.card, allow_changes)
    assert source.card is not None and source.weights is not None
    new = {name: weight.detach() for name, weight in parts.model.trained.items() if name.startswith(PREFIX)}
    load_trained(parts.model, new | source.weights)  # the layers that only the recipe gives LoRA
    return lines
