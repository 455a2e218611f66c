"""Copies the adapter out of a run: files that can be shared, checked before and after the copy, and a model card."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from data_prep.durable import new_folder, write_durably
from decode.export.model_card import model_card, read_score
from decode.export.origin import read_origin, write_origin
from model import weights
from model.adapters import build_adapter
from model.errors import TransientError, UserError, require_known
from model.loading import DTYPES
from model.lora import peft_config

EXPORT_DTYPES = ("float32", "float16")
FOR_PEFT = "lora"  # folder of an export in peft's own format
README = "README.md"
STATE = "state.json"  # of a training checkpoint


def export(
    source: str | Path, out: str | Path, dtype: str = "float32", score: str | Path | None = None
) -> weights.AdapterCard:
    """Copies adapter.safetensors and adapter.json of a run, checkpoint or export into the new folder `out`, with a
    README.md about them, and lora.safetensors if there is one; LoRA is also in `out`/lora, in peft's own format.

    The weights are rounded to `dtype`, float32 or float16. `score` is a folder or score.json of `slam-asr score` of
    this adapter, whose WER README.md then states. `out` appears whole or not at all. Exporting the same adapter there
    again changes nothing but README.md, if a score is given; UserError if `out` holds anything else, or if the source
    is damaged (its hash, names and shapes are checked)."""
    source = weights.find_adapter(source)
    card, tensors = weights.read_adapter(source)
    return write(source, Path(out), card, tensors, dtype, score)


def write(
    source: Path,
    out: Path,
    card: weights.AdapterCard,
    tensors: dict[str, Tensor],
    dtype: str = "float32",
    score: str | Path | None = None,
    origin: dict[str, Any] | None = None,
) -> weights.AdapterCard:
    """Writes the adapter in `source` into `out` under this card; see `export`. `origin` is as in origin.py; by default
    that of the source."""
    require_known("dtype of an export", dtype, EXPORT_DTYPES)
    weights.load_weights(build_adapter(card.spec), weights.of_adapter(tensors))
    files, digests = weights.weight_files(tensors, card, DTYPES[dtype])
    exported = replace(card, **digests, **trained_on(source)) if origin is None else replace(card, **digests)
    origin = read_origin(source) if origin is None else origin
    scored = read_score(score, {card.digest, exported.digest}) if score is not None else None
    if not os.path.lexists(out):
        with written_whole(out) as temporary:
            fill(temporary, weights.moved_card(exported, source, temporary), files, origin, scored)
    elif not _holds(out, exported):
        raise UserError(f"{str(out)!r} is there already and holds something else; name a new folder")
    elif scored is not None:
        write_durably(out / README, model_card(weights.read_card(out), files, origin, scored).encode())
    return exported


def trained_on(source: Path) -> dict[str, str]:
    """The card's fields about recipe and data, of a training checkpoint; none for an export, whose card has them."""
    try:
        state = json.loads((source / STATE).read_text("utf-8"))
        recipe = json.dumps(state["recipe"], sort_keys=True).encode()
        return {"recipe_sha256": hashlib.sha256(recipe).hexdigest(), "data_sha256": str(state["data"])}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{source / STATE} is damaged ({error!r}); export another checkpoint") from None


@contextmanager
def written_whole(out: Path) -> Iterator[Path]:
    """A temporary folder that becomes `out` after the block, or leaves nothing; TransientError if it cannot be
    written."""
    try:
        with new_folder(out) as temporary:
            yield temporary
            for file in temporary.rglob("*.safetensors"):
                file.chmod(0o644)  # save_pretrained closes these to other users
    except OSError as error:
        failed = f"cannot write {str(out)!r}: {error.strerror or error}; nothing was left there"
        raise TransientError(f"{failed}, make room or name another folder") from None


def fill(
    folder: Path,
    card: weights.AdapterCard,
    files: dict[str, bytes],
    origin: dict[str, Any],
    score: dict[str, Any] | None = None,
) -> None:
    """Writes all files of an export into the folder, and reads them again. The card's paths begin in this folder."""
    for name, data in files.items():
        weights.write_synced(folder / name, data)
    if card.lora is not None:
        for_peft = folder / FOR_PEFT
        for_peft.mkdir()
        options = json.dumps(peft_config(card.lora, card.llm_source), indent=1, sort_keys=True) + "\n"
        weights.write_synced(for_peft / "adapter_config.json", options.encode())
        weights.write_synced(for_peft / "adapter_model.safetensors", files[weights.LORA])
    write_origin(folder, origin)
    weights.write_synced(folder / README, model_card(card, files, origin, score).encode())
    weights.write_card(folder, card)
    assert weights.read_adapter(folder)[0] == card, "the copy differs from what was checked"


def _holds(out: Path, card: weights.AdapterCard) -> bool:
    """Whether `out` holds this adapter; paths to encoder and LLM may differ, as the folders do."""
    try:
        return replace(weights.read_adapter(out)[0], encoder_path=card.encoder_path, llm_path=card.llm_path) == card
    except (OSError, UserError):
        return False
