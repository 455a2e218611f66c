"""Frozen speech encoders, chosen by the checkpoint's own `model_type`: one file and one line below for each family."""

from typing import Any

import torch

from model.encoder_layers import read_layers
from model.encoders.dtype import encoder_dtype
from model.encoders.hubert import HubertEncoder
from model.errors import UserError
from model.loading.hub import place_to_open
from model.loading.pretrained import fingerprint, freeze, kind_of, loading, open_pretrained
from model.sample_rate import SAMPLE_RATE

ENCODER_FAMILIES = {"hubert": HubertEncoder, "wav2vec2": HubertEncoder, "wavlm": HubertEncoder}

Encoder = HubertEncoder
"""What every family offers: dim, sample_rate, layer, out_len(n), forward(audio, audio_cu), fingerprint()."""


def load_encoder(
    source: str,
    layer: int | str | None = None,
    dtype: str = "auto",
    device: Any = "cpu",
    trust_remote_code: bool = False,
) -> Encoder:
    """A frozen encoder from a Hugging Face id or a local folder, on `device`.

    `layer` as in model/encoder_layers.py. The encoder's `dtype_note` says if it is computed in another dtype than asked
    for (model/encoders/dtype.py). UserError if it cannot be loaded whole, or is not of a known family at 16 kHz.
    """
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

    with loading("encoder", source):
        place = place_to_open("encoder", source)
        config = AutoConfig.from_pretrained(place, trust_remote_code=trust_remote_code)
        require_encoder_family(source, config.model_type)
        extractor = AutoFeatureExtractor.from_pretrained(place, trust_remote_code=trust_remote_code)
        sample_rate, do_normalize = extractor.sampling_rate, extractor.do_normalize
    if sample_rate != SAMPLE_RATE:
        raise UserError(f"encoder {source!r} expects audio at {sample_rate} Hz, not {SAMPLE_RATE} Hz; use another")
    if getattr(config, "add_adapter", False):
        raise UserError(f"encoder {source!r} shortens its frames by a network of its own (add_adapter); use another")
    model = open_pretrained(AutoModel, "encoder", source, place, trust_remote_code, may_miss=("masked_spec_embed",))
    weights = fingerprint(model)
    computed, note = encoder_dtype(model, dtype, device)
    model = model.to(device=device, dtype=computed)
    encoder = ENCODER_FAMILIES[config.model_type](model, sample_rate, do_normalize, layer, weights)
    encoder.source, encoder.dtype_note = source, note
    return freeze(encoder)


def require_encoder_family(source: str, model_type: str) -> None:
    """UserError unless config.json's `model_type` is of a supported family."""
    if model_type not in ENCODER_FAMILIES:
        raise UserError(
            f"{source!r} is {kind_of(model_type)} (model_type {model_type!r}), not one of the supported speech "
            f"encoders ({', '.join(ENCODER_FAMILIES)}); correct model.encoder in the recipe, or --encoder"
        )


def known_fingerprint(
    source: str, layer: int | str | None, dtype: str, made: dict[str, Any], device: Any
) -> dict[str, Any]:
    """The fingerprint of an encoder on `device` whose weights are those of the fingerprint `made`; loads no weights.

    `dtype` "auto" is that of `made`. UserError for a layer that the encoder does not have.
    """
    from transformers import AutoConfig, AutoModel

    with loading("encoder", source), torch.device("meta"):
        config, computed = AutoConfig.from_pretrained(place_to_open("encoder", source)), made["dtype"]
        if dtype != "auto":
            computed = str(encoder_dtype(AutoModel.from_config(config), dtype, device)[0]).removeprefix("torch.")
    return {**made, "layer": read_layers(layer, config.num_hidden_layers).name, "dtype": computed}
