"""The mean of the weights of several checkpoints (Izmailov et al., arXiv 1803.05407), as an export."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decode.export.adapter import trained_on, write
from decode.export.origin import of_adapter
from model import weights
from model.errors import UserError, counted
from model.lora import require_same_shapes

FACTS = ("recipe_sha256", "data_sha256")


def export_averaged(
    sources: Sequence[str | Path],
    out: str | Path,
    last: int | None = None,
    dtype: str = "float32",
    score: str | Path | None = None,
) -> weights.AdapterCard:
    """Exports the mean of the weights (the adapter's, and LoRA's A and B) of several runs, checkpoints or exports, or
    of the `last` checkpoints that one run kept. Computed in float64, in an order that does not depend on that of
    `sources`. The card is that of the newest, and names recipe and data only where all agree; origin.json lists steps
    and digests. `dtype`, `score` and `out` are as for `decode.export.adapter.export`.

    UserError for a single checkpoint, one that is named twice, and the first difference between their models, prompts
    or shapes."""
    folders = _kept(sources, last) if last is not None else [weights.find_adapter(source) for source in sources]
    if len(folders) < 2:
        one = f"the mean of one checkpoint, {str(folders[0])!r}, is that checkpoint"
        raise UserError(f"{one}; name several, or a run and --last N")
    cards = sorted(
        ((weights.read_card(folder), folder) for folder in folders), key=lambda one: (one[0].step, one[0].digest)
    )
    _require_alike(cards)
    newest, place = cards[-1]
    facts = [trained_on(folder) or {name: getattr(card, name) for name in FACTS} for card, folder in cards]
    agreed = {name: facts[-1][name] if all(fact[name] == facts[-1][name] for fact in facts) else "" for name in FACTS}
    origin = {"averaged": [of_adapter(card) for card, _ in cards]}
    mean = _mean([folder for _, folder in cards])
    return write(place, Path(out), replace(newest, **agreed), mean, dtype, score, origin)


def _mean(folders: list[Path]) -> dict[str, Tensor]:
    """The mean [float64] of the trained weights in the folders, added up in their order."""
    total: dict[str, Tensor] = {}
    for folder in folders:
        _, tensors = weights.read_adapter(folder)
        total = total or {name: torch.zeros(tensor.shape, dtype=torch.float64) for name, tensor in tensors.items()}
        require_same_shapes("averaged", tensors, total)
        total = {name: tensor + tensors[name] for name, tensor in total.items()}
    return {name: tensor / len(folders) for name, tensor in total.items()}


def _kept(sources: Sequence[str | Path], last: int) -> list[Path]:
    """The `last` newest checkpoints of the run."""
    if len(sources) != 1:
        raise UserError(f"--last is for the checkpoints of one run, {len(sources)} sources are named; leave it out")
    checkpoints = sorted((Path(sources[0]) / "checkpoints").glob("step-*"))
    if not checkpoints:
        weights.find_adapter(sources[0])  # a better message, where it is no run
        raise UserError(f"--last is for the checkpoints of a run, {str(sources[0])!r} is none; name several sources")
    if not 2 <= last <= len(checkpoints):
        kept = counted(len(checkpoints), "checkpoint")
        raise UserError(f"--last is {last}, the run {str(sources[0])!r} kept {kept}; give 2 to {len(checkpoints)}")
    return checkpoints[-last:]


def _require_alike(cards: list[tuple[weights.AdapterCard, Path]]) -> None:
    """UserError for the first difference, to the newest, that is not one of weights; or if weights are the same."""
    newest, place = cards[-1]
    for card, folder in cards[:-1]:
        ours, theirs = _compared(card), _compared(newest)
        for name in ours | theirs:
            if ours.get(name) != theirs.get(name):
                differ = f"its {name} is {ours.get(name)!r}, that of {str(place)!r} is {theirs.get(name)!r}"
                advice = "average checkpoints of one run"
                raise UserError(f"{str(folder)!r} cannot be averaged with the others: {differ}; {advice}")
    for (card, folder), (following, other) in itertools.pairwise(cards):
        if card.digest == following.digest:
            raise UserError(f"{str(folder)!r} and {str(other)!r} have the same weights; name each checkpoint once")


def _compared(card: weights.AdapterCard) -> dict[str, Any]:
    """{what: value} that must be equal; dropout and the encoder's precision need not be."""
    lora = asdict(replace(card.lora, dropout=0.0)) if card.lora else {}
    parts = {
        "adapter": asdict(replace(card.spec, dropout=0.0)),
        "LoRA": lora,
        "encoder": {**card.encoder, "dtype": None},
        "LLM": card.llm,
    }
    stated = {f"{part} {name}": value for part, fields in parts.items() for name, value in fields.items()}
    return {"prompt": card.prompt, **stated}
