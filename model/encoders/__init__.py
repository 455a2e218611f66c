"""Frozen speech encoders, chosen by the checkpoint's own `model_type`: one file and one line below for each family.

Begin with hubert.py: load_encoder makes a family's class, which offers what is said at Encoder. May import the
modules of model only."""

from typing import Any

import torch
from torch import nn

from model.encoder_layers import read_layers
from model.encoders.hubert import HubertEncoder
from model.errors import UserError
from model.loading import choose_dtype, fingerprint, freeze, kind_of, loading, open_pretrained, place_to_open
from model.sample_rate import SAMPLE_RATE

ENCODER_FAMILIES = {"hubert": HubertEncoder, "wav2vec2": HubertEncoder, "wavlm": HubertEncoder}

Encoder = HubertEncoder
"""What every family offers: dim, sample_rate, layer, out_len(n), forward(audio, audio_cu), fingerprint()."""

MIN_GROUP_CHANNELS = 16


def load_encoder(
    source: str,
    layer: int | str | None = None,
    dtype: str = "auto",
    device: Any = "cpu",
    trust_remote_code: bool = False,
) -> Encoder:
    """A frozen encoder from a Hugging Face id or a local folder, on `device`; `layer` as in model/encoder_layers.py.
    UserError if it cannot be loaded whole, or is not of a known family at 16 kHz."""
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
        wanted = f"not one of the supported speech encoders ({', '.join(ENCODER_FAMILIES)})"
        other = f"{kind_of(model_type)} (model_type {model_type!r})"
        raise UserError(f"{source!r} is {other}, {wanted}; correct model.encoder in the recipe, or --encoder")


def known_fingerprint(
    source: str, layer: int | str | None, dtype: str, made: dict[str, Any], device: Any
) -> dict[str, Any]:
    """The fingerprint of an encoder on `device` whose weights are those of the fingerprint `made`, read from its
    configuration; `dtype` "auto" is that of `made`. UserError for a layer that the encoder does not have."""
    from transformers import AutoConfig, AutoModel

    with loading("encoder", source), torch.device("meta"):
        config, computed = AutoConfig.from_pretrained(place_to_open("encoder", source)), made["dtype"]
        if dtype != "auto":
            computed = str(encoder_dtype(AutoModel.from_config(config), dtype, device)[0]).removeprefix("torch.")
    return {**made, "layer": read_layers(layer, config.num_hidden_layers).name, "dtype": computed}


def encoder_dtype(model: nn.Module, asked: str, device: torch.device | str) -> tuple[torch.dtype, str]:
    """The dtype for `model` on `device` if `asked` is wanted, and a note why it is float32 instead (else empty).

    On CPUs with AMX (Intel Sapphire Rapids and later) oneDNN's bfloat16 convolutions are wrong if there are several
    groups of fewer than 16 channels, as in the positional convolution of a narrow HuBERT (hidden_size / groups;
    HuBERT-base has 48). Such an encoder computes in float32 on every CPU, so that its frames are the same on all."""
    dtype = choose_dtype(asked, device)
    if dtype != torch.bfloat16 or torch.device(device).type != "cpu" or (narrow := narrow_groups(model)) is None:
        return dtype, ""
    name, channels = narrow
    return torch.float32, (
        f"the encoder is computed in float32, not bfloat16: its {name} has {channels} channels a group, and with fewer "
        f"than {MIN_GROUP_CHANNELS} some CPUs get bfloat16 wrong"
    )


def narrow_groups(model: nn.Module) -> tuple[str, int] | None:
    """Name and channels a group of the first convolution with several groups of fewer than 16 input or output channels
    (depthwise ones included); None if there is none."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d) and module.groups > 1:
            channels = min(module.in_channels, module.out_channels) // module.groups
            if channels < MIN_GROUP_CHANNELS:
                return name, channels
    return None
