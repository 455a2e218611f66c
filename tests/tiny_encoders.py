"""A tiny checkpoint of every encoder family, and what transformers itself makes of a waveform with it."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

DEPTH, WIDTH = 3, 32
HUBERTS = ("hubert", "wav2vec2", "wavlm", "data2vec-audio", "unispeech", "unispeech-sat")
OTHERS = ("wav2vec2-bert", "whisper", "voxtral", "moonshine")
STYLES = {  # as HuBERT-base and as HuBERT-large: norm in the convolutions, norm in the transformer
    "group": {"feat_extract_norm": "group", "do_stable_layer_norm": False, "conv_bias": False},
    "layer": {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
}
SIZES: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
CONVOLUTIONS = {"conv_dim": (8,) * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
WORDS = {"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}


def tiny_encoder(
    folder: Path, family: str, style: str = "layer", seed: int = 0, rate: int = 16_000, seconds: int = 1, **more: Any
) -> str:
    """Writes the checkpoint as it is published, decoder and LLM included, and returns its folder; `style` is of
    HuBERT's kin, `seconds` the window of Whisper's, `more` goes into the configuration."""
    from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

    path = folder / f"{family}-{style}-{seed}-{rate}-{seconds}-{'-'.join(f'{k}={v}' for k, v in more.items())}"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _model(family, style, seconds, more)
        for name, weights in model.named_parameters():  # fresh norms are the identity and would hide a missing one
            if "norm" in name:
                nn.init.normal_(weights, 1.0, 0.3)
    model.save_pretrained(path)
    if family == "wav2vec2-bert":
        extractor: Any = SeamlessM4TFeatureExtractor(sampling_rate=rate)
    elif family in ("whisper", "voxtral"):
        bins = (model.config.audio_config if family == "voxtral" else model.config).num_mel_bins
        extractor = WhisperFeatureExtractor(feature_size=bins, sampling_rate=rate, chunk_length=seconds)
    else:
        masks = style == "layer" and family != "moonshine"
        extractor = Wav2Vec2FeatureExtractor(
            sampling_rate=rate, do_normalize=family != "moonshine", return_attention_mask=masks
        )
    extractor.save_pretrained(path)
    return str(path)


def _model(family: str, style: str, seconds: int, more: dict[str, Any]) -> Any:
    import transformers as hf
    from transformers import AutoConfig, AutoModel

    if family == "whisper":
        ends = {"encoder": DEPTH, "decoder": 1}
        sizes = {f"{end}_layers": depth for end, depth in ends.items()}
        sizes |= {f"{end}_{name}": size for end in ends for name, size in (("attention_heads", 2), ("ffn_dim", 32))}
        frames = {"max_source_positions": 50 * seconds, "max_target_positions": 8}
        config = hf.WhisperConfig(**{"d_model": WIDTH, **sizes, **frames, **WORDS, **more})
        return hf.WhisperForConditionalGeneration(config)
    if family == "voxtral":
        audio = {**SIZES, "max_source_positions": 50 * seconds, "vocab_size": 64, **more}
        text = {**SIZES, "num_hidden_layers": 1, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 64}
        composed = hf.VoxtralConfig(audio_config=audio, text_config=text, audio_token_id=3)
        return hf.VoxtralForConditionalGeneration(composed)
    if family == "moonshine":
        ends = {"encoder": DEPTH, "decoder": 1}
        sizes = {f"{end}_num_hidden_layers": depth for end, depth in ends.items()}
        sizes |= {f"{end}_num_attention_heads": 2 for end in ends}
        config = hf.MoonshineConfig(**{"hidden_size": WIDTH, "intermediate_size": 32, **sizes, **WORDS, **more})
        return hf.MoonshineForConditionalGeneration(config)
    parts = {} if family == "wav2vec2-bert" else {**CONVOLUTIONS, **STYLES[style]}
    if family == "data2vec-audio":
        parts |= {"num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5}
    return AutoModel.from_config(AutoConfig.for_model(family, **{**SIZES, **parts, **more}))


@cache
def _theirs(source: str) -> tuple[Any, Any]:
    """The encoder and the feature extractor, as transformers opens them."""
    import transformers as hf

    kind = hf.AutoConfig.from_pretrained(source).model_type
    whole = {"whisper": "WhisperForConditionalGeneration", "moonshine": "MoonshineForConditionalGeneration"}
    whole["voxtral"] = "VoxtralForConditionalGeneration"
    model = getattr(hf, whole.get(kind, "AutoModel")).from_pretrained(source).eval()
    parts = {"whisper": "model.encoder", "moonshine": "model.encoder", "voxtral": "model.audio_tower"}
    return model.get_submodule(parts.get(kind, "")), hf.AutoFeatureExtractor.from_pretrained(source)


@torch.no_grad()
def reference(source: str, wave: Tensor, cut: bool = False) -> tuple[list[Tensor], Tensor]:
    """transformers' own outputs of every layer [T, D] for a wave [N], and its last hidden state [T, D]; of Whisper's
    kin window by window, without the frames of the padding."""
    model, extractor = _theirs(source)
    if hasattr(extractor, "n_samples"):
        parts = [_window(model, extractor, window, cut) for window in wave.split(extractor.n_samples)]
        return [torch.cat(layer) for layer in zip(*(own for own, _ in parts), strict=True)], torch.cat(
            [last for _, last in parts]
        )
    inputs = extractor(wave.numpy(), sampling_rate=16_000, return_tensors="pt")
    outputs, last = _run(model, inputs)
    count = int(inputs["attention_mask"].sum()) if "input_features" in inputs else len(last)
    return [own[:count] for own in outputs], last[:count]


def _window(model: Any, extractor: Any, wave: Tensor, cut: bool) -> tuple[list[Tensor], Tensor]:
    inputs = extractor(wave.numpy(), sampling_rate=16_000, return_tensors="pt")
    count = -(-len(wave) // 320)
    if not cut:
        outputs, last = _run(model, inputs)
        return [own[:count] for own in outputs], last[:count]
    whole, positions = model.config.max_source_positions, model.embed_positions
    model.config.max_source_positions, model.embed_positions = (
        count,
        nn.Embedding.from_pretrained(positions.weight[:count]),
    )
    try:
        return _run(model, {"input_features": inputs["input_features"][..., : 2 * count]})
    finally:
        model.config.max_source_positions, model.embed_positions = whole, positions


def _run(model: Any, inputs: Any) -> tuple[list[Tensor], Tensor]:
    outputs: list[Tensor] = []
    layers = next(module for name, module in model.named_modules() if name in ("layers", "encoder.layers"))
    hooks = [
        layer.register_forward_hook(lambda _, given, put: outputs.append(put[0] if isinstance(put, tuple) else put))
        for layer in layers
    ]
    try:
        last = model(**inputs).last_hidden_state[0]
    finally:
        for hook in hooks:
            hook.remove()
    return [output[0] for output in outputs], last
