"""Frozen speech encoders, chosen by the checkpoint's `model_type`: one file and one line below for each family.

Begin with encoder.py, their common interface, then hubert.py. May import the modules of model only."""

import copy
from typing import Any

import torch
from torch import nn

from model.encoder_layers import layers_in_frame, read_layers
from model.encoders.encoder import Encoder, chosen_window
from model.encoders.hubert import HubertEncoder
from model.encoders.moonshine import MoonshineEncoder
from model.encoders.wav2vec2_bert import Wav2Vec2BertEncoder
from model.encoders.whisper import WhisperEncoder
from model.errors import UserError
from model.loading import choose_dtype, fingerprint, freeze, kind_of, loading, place_to_open
from model.sample_rate import SAMPLE_RATE

ENCODER_FAMILIES: dict[str, type[Encoder]] = {
    "hubert": HubertEncoder,
    "wav2vec2": HubertEncoder,
    "wavlm": HubertEncoder,
    "data2vec-audio": HubertEncoder,
    "unispeech": HubertEncoder,
    "unispeech-sat": HubertEncoder,
    "wav2vec2-bert": Wav2Vec2BertEncoder,
    "whisper": WhisperEncoder,
    "voxtral": WhisperEncoder,
    "voxtral_encoder": WhisperEncoder,
    "moonshine": MoonshineEncoder,
}

MIN_GROUP_CHANNELS = 16


def samples_per_frame(fingerprint: dict[str, Any]) -> int:
    """Samples at 16 kHz between frames of the encoder with this fingerprint, which need not be loaded."""
    return ENCODER_FAMILIES.get(str(fingerprint.get("family")), Encoder).samples_per_frame


def load_encoder(
    source: str,
    layer: int | str | None = None,
    dtype: str = "auto",
    device: Any = "cpu",
    trust_remote_code: bool = False,
    window: str | None = None,
) -> Encoder:
    """A frozen encoder from a Hugging Face id or a local folder, on `device`; `layer` as in model/encoder_layers.py,
    `window` one of the family's `windows`. UserError if it cannot be loaded whole, or is not of a known family at
    16 kHz."""
    from transformers import AutoConfig

    with loading("encoder", source):
        place = place_to_open("encoder", source)
        config = AutoConfig.from_pretrained(place, trust_remote_code=trust_remote_code)
        require_encoder_family(source, config.model_type)
    family, extractor = ENCODER_FAMILIES[config.model_type], open_extractor(source, place, config, trust_remote_code)
    config = family.own_config(config)
    read_layers(layer, family.depth(config))
    chosen_window(family, config.model_type, window)
    model = family.open(config, source, place, trust_remote_code)
    weights = fingerprint(model)
    computed, note = encoder_dtype(model, dtype, device)
    encoder = family(model.to(device=device, dtype=computed), extractor, layer, weights, window)
    encoder.source, encoder.dtype_note = source, note
    return freeze(encoder)


def open_extractor(source: str, place: str, config: Any, trust_remote_code: bool = False) -> Any:
    """The feature extractor of the checkpoint at `place`, whose configuration is of a known family; messages name
    `source`. UserError unless it takes 16 kHz, has what the family reads, and its frames are the transformer's."""
    from transformers import AutoFeatureExtractor

    with loading("encoder", source):
        extractor = AutoFeatureExtractor.from_pretrained(place, trust_remote_code=trust_remote_code)
        sample_rate = extractor.sampling_rate
    if sample_rate != SAMPLE_RATE:
        raise UserError(f"encoder {source!r} expects audio at {sample_rate} Hz, not {SAMPLE_RATE} Hz; use another")
    family = ENCODER_FAMILIES[config.model_type]
    if lacking := [name for name in family.reads if not hasattr(extractor, name)]:
        kind = f"preprocessor_config.json is of a {type(extractor).__name__}, without {', '.join(lacking)}"
        raise UserError(f"encoder {source!r}: its {kind}; use a checkpoint with files that belong together")
    if getattr(family.own_config(config), "add_adapter", False):
        raise UserError(f"encoder {source!r} subsamples its frames with an adapter (add_adapter); use another")
    return extractor


def require_encoder_family(source: str, model_type: str) -> None:
    """UserError unless config.json's `model_type` is of a supported family."""
    if model_type not in ENCODER_FAMILIES:
        wanted = f"not one of the supported speech encoders ({', '.join(ENCODER_FAMILIES)})"
        other, kind = f"(model_type {model_type!r})", kind_of(model_type)
        add = "; a new family is a file in model/encoders" if kind == "a speech model" else ""
        advice = f"correct model.encoder in the recipe, or --encoder{add}"
        raise UserError(f"{source!r} is {kind} {other}, {wanted}; {advice}")


def random_encoder(
    config: Any,
    layer: int | str | None = None,
    window: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "meta",
    trust_remote_code: bool = False,
    depth: int | None = None,
) -> Encoder:
    """An encoder of a checkpoint's transformers configuration with random weights, or with none on the meta device;
    `depth` is the number of layers to build (default: all). UserError for a layer or window that it does not have."""
    family = ENCODER_FAMILIES[config.model_type]
    config = copy.deepcopy(family.own_config(config))  # building the model sets the configuration's attention
    if depth is not None:
        setattr(config, family.depth_name, depth)
    with torch.device(device):
        model = family.build(config, dtype, trust_remote_code)
    model = model.to(device)  # transformers makes an encoder's masked_spec_embed on the CPU all the same
    return freeze(family(model, family.usual_extractor(config), layer, "random", window))


def known_fingerprint(
    source: str, layer: int | str | None, dtype: str, made: dict[str, Any], device: Any, window: str | None = None
) -> dict[str, Any]:
    """The fingerprint of an encoder on `device`, from its configuration and the fingerprint `made` of the same weights;
    `dtype` "auto" is that of `made`. UserError for a layer or window that the encoder does not have."""
    from transformers import AutoConfig

    with loading("encoder", source), torch.device("meta"):
        config, computed = AutoConfig.from_pretrained(place_to_open("encoder", source)), made["dtype"]
        family = ENCODER_FAMILIES[config.model_type]
        config = family.own_config(config)
        if dtype != "auto":
            computed = str(encoder_dtype(family.build(config), dtype, device)[0]).removeprefix("torch.")
    name, window = read_layers(layer, family.depth(config)).name, chosen_window(family, config.model_type, window)
    known = {"layer": name, "dtype": computed, "dim": config.hidden_size * layers_in_frame(name)}
    return {**made, **known, **({"window": window} if window else {})}


def encoder_dtype(model: nn.Module, requested: str, device: torch.device | str) -> tuple[torch.dtype, str]:
    """The dtype of `model` on `device` if `requested` is requested, and a note if it is float32 instead (else empty).

    On CPUs with AMX (Intel Sapphire Rapids and later) oneDNN's bfloat16 convolutions are wrong if there are several
    groups of fewer than 16 channels, as in the positional convolution of a narrow HuBERT (hidden_size / groups;
    HuBERT-base has 48). Such an encoder is computed in float32 on every CPU, so that its frames are the same on all."""
    dtype = choose_dtype(requested, device)
    if dtype != torch.bfloat16 or torch.device(device).type != "cpu" or (narrow := narrow_groups(model)) is None:
        return dtype, ""
    name, channels = narrow
    return torch.float32, (
        f"the encoder is computed in float32, not bfloat16: its {name} has {channels} channels a group, and with fewer "
        f"than {MIN_GROUP_CHANNELS} some CPUs compute bfloat16 convolutions wrongly"
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
