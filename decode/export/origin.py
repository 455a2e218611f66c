"""origin.json of an export: what its weights were made of, where that is not one checkpoint of a training here.

It lies beside adapter.json rather than in it, so that earlier versions of slam-asr can use the adapter too. One of:

    {"averaged": [{"step": 390, "sha256": "..."}, ...]}       the adapters whose weights were averaged
    {"merged": {"step": 520, "sha256": "..."}}                the adapter whose LoRA was merged into the LLM
    {"imported": {"toolkit": "slam-llm", "sha256": "..."}}    a file of another toolkit

Each sha256 is AdapterCard.digest, or that of the file."""

from pathlib import Path
from typing import Any

from data_prep.durable import canonical_json, read_regular, strict_json
from model.errors import UserError
from model.weights import AdapterCard, write_synced

ORIGIN, MAX_BYTES = "origin.json", 1_000_000


def read_origin(folder: Path) -> dict[str, Any]:
    """What origin.json in this folder says; empty if there is none. UserError if it has none of the forms above."""
    path = folder / ORIGIN
    try:
        origin = strict_json(read_regular(path, MAX_BYTES))
        described(origin)
        return origin
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error!r}); export the adapter again") from None


def write_origin(folder: Path, origin: dict[str, Any]) -> None:
    """Writes and fsyncs origin.json; nothing for an empty one."""
    if origin:
        write_synced(folder / ORIGIN, canonical_json(origin, indent=1) + b"\n")


def of_adapter(card: AdapterCard) -> dict[str, Any]:
    """The adapter with this card, as a source of another one."""
    return {"step": card.step, "sha256": card.digest}


def described(origin: dict[str, Any]) -> dict[str, str]:
    """{what: value} for the model card. KeyError or TypeError for another form."""
    facts: dict[str, str] = {}
    for kind, value in origin.items():
        if kind == "averaged":
            facts["mean of the weights of"] = "; ".join(_step(one) for one in value)
        elif kind == "merged":
            facts["LoRA merged into the LLM"] = _step(value)
        elif kind == "imported":
            facts["imported from"] = f"a file of {value['toolkit']}, `{value['sha256']}`"
        else:
            raise KeyError(kind)
    return facts


def _step(adapter: dict[str, Any]) -> str:
    return f"step {adapter['step']:,}, `{adapter['sha256']}`"
