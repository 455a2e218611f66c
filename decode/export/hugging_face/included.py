"""Copies an adapter's encoder and LLM into an exported folder: what recognition needs of them, as safetensors, in their
stored dtype. Each copy is read again, and its sha256 compared with that in adapter.json."""

from pathlib import Path
from typing import Any

import torch

from model import weights
from model.encoders import ENCODER_FAMILIES, load_encoder, open_extractor, require_encoder_family
from model.errors import UserError
from model.files import saving_pretrained
from model.frozen_parts import FrozenPart, open_part
from model.llm import load_llm
from model.loading import fingerprint, loading, place_to_open
from model.weights import AdapterCard


def include_encoder(card: AdapterCard, folder: Path, given: str | None, out: Path) -> None:
    """Copies the encoder, without the rest of its checkpoint, from `given` or where the adapter.json in `folder` says.
    UserError if it is not found, or is not the one that the adapter was trained with."""

    def open_it(place: str, own_code: bool) -> tuple[Any, Any]:
        from transformers import AutoConfig

        with loading("encoder", place):
            opened = place_to_open("encoder", place)
            config = AutoConfig.from_pretrained(opened)
            require_encoder_family(place, config.model_type)
        family = ENCODER_FAMILIES[config.model_type]
        extractor = open_extractor(place, opened, config)
        model = family.open(family.own_config(config), place, opened, False)
        weights.require_encoder(card, {**card.encoder, "weights": fingerprint(model)}, place)
        return model, extractor

    part = FrozenPart("encoder", card.encoder_source, card.encoder_path, card.encoder, folder)
    model, extractor = open_it(given, True) if given else open_part(part, open_it)
    with saving_pretrained():
        model.save_pretrained(out, save_original_format=False)  # by the names that it was fingerprinted with
    extractor.save_pretrained(out)
    del model
    copy = load_encoder(str(out), card.encoder["layer"], window=card.encoder.get("window"))
    weights.require_encoder(card, copy.fingerprint(), str(out))


def include_llm(card: AdapterCard, folder: Path, given: str | None, out: Path) -> Any:
    """The same for the LLM, which is held in float32: 4 bytes a parameter. Returns its tokenizer."""
    loaded = weights.open_llm(card, folder, given, "float32", "cpu", False)
    model, tokenizer = loaded.model, loaded.tokenizer
    if getattr(model.config, "quantization_config", None):
        raise UserError(
            f"LLM {card.llm_source!r} is quantised and cannot be copied; leave --include-models out and name it with "
            "--llm ID"
        )
    with saving_pretrained():
        model.to(model.config.dtype or torch.float32).save_pretrained(out)
    tokenizer.save_pretrained(out)
    del loaded, model
    copy = load_llm(str(out)).fingerprint
    if copy != card.llm:
        raise UserError(f"the copy of LLM {card.llm_source!r} differs from it; name it with --llm ID instead")
    return tokenizer
