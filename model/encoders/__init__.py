"""Speech encoders, chosen by the checkpoint's own `model_type`."""

from typing import Any

from model.encoders.hubert import HubertEncoder
from model.errors import UserError
from model.pretrained import choose_dtype, fingerprint, freeze, loading, open_pretrained

ENCODERS = {"hubert": HubertEncoder, "wav2vec2": HubertEncoder, "wavlm": HubertEncoder}

Encoder = HubertEncoder
"""What every entry of ENCODERS offers: dim, sample_rate, layer, out_len(n), forward(audio, audio_cu), fingerprint()."""


def load_encoder(
    source: str, layer: int | None = None, dtype: str = "auto", device: Any = "cpu", trust_remote_code: bool = False
) -> Encoder:
    """A frozen encoder from a Hugging Face id or a local folder, on `device`.

    `layer` counts transformer layers from 1 (None: the last). UserError if it cannot be loaded whole or is of no known
    family.
    """
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

    with loading("encoder", source):
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
        if config.model_type not in ENCODERS:
            raise UserError(f"encoder {source!r} is of family {config.model_type!r}; known: {', '.join(ENCODERS)}")
        extractor = AutoFeatureExtractor.from_pretrained(source, trust_remote_code=trust_remote_code)
    model = open_pretrained(AutoModel, "encoder", source, trust_remote_code, may_miss=("masked_spec_embed",))
    weights = fingerprint(model)
    model = model.to(device=device, dtype=choose_dtype(dtype, device))
    encoder = ENCODERS[config.model_type](model, extractor.sampling_rate, extractor.do_normalize, layer, weights)
    return freeze(encoder)
