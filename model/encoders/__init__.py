"""Speech encoders, chosen by the checkpoint's own `model_type`."""

from typing import Any

from model.encoder_layers import read_layers
from model.encoders.hubert import HubertEncoder
from model.errors import UserError
from model.hub import place_to_open
from model.pretrained import choose_dtype, fingerprint, freeze, kind_of, loading, open_pretrained
from model.sample_rate import SAMPLE_RATE

ENCODERS = {"hubert": HubertEncoder, "wav2vec2": HubertEncoder, "wavlm": HubertEncoder}

Encoder = HubertEncoder
"""What every entry of ENCODERS offers: dim, sample_rate, layer, out_len(n), forward(audio, audio_cu), fingerprint()."""


def load_encoder(
    source: str,
    layer: int | str | None = None,
    dtype: str = "auto",
    device: Any = "cpu",
    trust_remote_code: bool = False,
) -> Encoder:
    """A frozen encoder from a Hugging Face id or a local folder, on `device`.

    `layer` counts transformer layers from 1 (None: the last); "mean" and "mean:6-12" read the mean of all, or of some.
    UserError if it cannot be loaded whole, or is not of a known family at 16 kHz.
    """
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

    with loading("encoder", source):
        place = place_to_open("encoder", source)
        config = AutoConfig.from_pretrained(place, trust_remote_code=trust_remote_code)
        require_encoder_family(source, config.model_type)
        extractor = AutoFeatureExtractor.from_pretrained(place, trust_remote_code=trust_remote_code)
        sample_rate, do_normalize = extractor.sampling_rate, extractor.do_normalize
    if sample_rate != SAMPLE_RATE:
        raise UserError(f"encoder {source!r} takes audio at {sample_rate} Hz, ours is at {SAMPLE_RATE} Hz; use another")
    if getattr(config, "add_adapter", False):
        raise UserError(
            f"encoder {source!r} shortens its frames by a network of its own (add_adapter); use another encoder"
        )
    model = open_pretrained(AutoModel, "encoder", source, place, trust_remote_code, may_miss=("masked_spec_embed",))
    weights = fingerprint(model)
    model = model.to(device=device, dtype=choose_dtype(dtype, device))
    encoder = ENCODERS[config.model_type](model, sample_rate, do_normalize, layer, weights)
    encoder.source = source
    return freeze(encoder)


def require_encoder_family(source: str, model_type: str) -> None:
    """UserError unless config.json's `model_type` is that of an encoder we have."""
    if model_type not in ENCODERS:
        raise UserError(
            f"{source!r} is {kind_of(model_type)} (model_type {model_type!r}), not one of the supported speech "
            f"encoders ({', '.join(ENCODERS)}); correct model.encoder in the recipe, or --encoder"
        )


def known_fingerprint(source: str, layer: int | str | None, dtype: str, made: dict[str, Any]) -> dict[str, Any]:
    """The fingerprint of an encoder whose weights are those that `made`, a fingerprint, names; nothing is loaded.

    `dtype` "auto" is that of `made`. UserError for a layer that the encoder does not have.
    """
    from transformers import AutoConfig

    with loading("encoder", source):
        depth = AutoConfig.from_pretrained(place_to_open("encoder", source)).num_hidden_layers
    return {**made, "layer": read_layers(layer, depth).name, "dtype": made["dtype"] if dtype == "auto" else dtype}
