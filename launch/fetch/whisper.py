"""Converts Whisper from CTranslate2's format into a transformers folder.

CTranslate2 stores q, k and v of self-attention as one linear layer, k and v of cross-attention as another, gives k a
bias of zeros, and stores settings as scalar arrays (its python/ctranslate2/specs/whisper_spec.py)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_prep.durable import read_regular, strict_json
from launch.fetch.ctranslate2 import Model, read_model
from model.errors import UserError

SPECIFICATION = "WhisperSpec"
SETTINGS = {  # those of every Whisper; 3 is GELU
    **{"decoder/pre_norm": 1, "decoder/activation": 3, "decoder/alibi": 0, "decoder/scale_embeddings": 0},
    "decoder/start_from_zero_embedding": 0,
}
UNUSED = ("decoder/alignment_layer", "decoder/alignment_heads")  # for word timestamps; config.json has the heads
MAX_JSON_BYTES = 10_000_000


def write_whisper(source: Path, out: Path) -> None:
    """Writes the new folder `out` from the folder `source`, which holds model.bin, config.json and tokenizer.json of an
    English-only Whisper. UserError unless the weights are exactly those of a Whisper."""
    from transformers import GenerationConfig, WhisperFeatureExtractor, WhisperTokenizer

    tokenizer = WhisperTokenizer.from_pretrained(source, pad_token="<|endoftext|>")
    names = ("<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>")
    end, start, no_timestamps = (tokenizer.convert_tokens_to_ids(name) for name in names)
    model = whisper_of(read_model(source / "model.bin"), end, start)
    stored = strict_json(read_regular(source / "config.json", MAX_JSON_BYTES))
    model.generation_config = GenerationConfig(
        **{"bos_token_id": start, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": start},
        is_multilingual=False,
        no_timestamps_token_id=no_timestamps,
        return_timestamps=False,
        max_initial_timestamp_index=50,
        max_length=model.config.max_target_positions,
        suppress_tokens=stored["suppress_ids"],
        begin_suppress_tokens=stored["suppress_ids_begin"],
        alignment_heads=stored["alignment_heads"],
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    WhisperFeatureExtractor(feature_size=model.config.num_mel_bins).save_pretrained(out)


def whisper_of(stored: Model, end: int, start: int) -> Any:
    """transformers' WhisperForConditionalGeneration with these weights, in their dtype; `end` and `start` are the ids
    of the tokens that end a text and start a transcript. UserError if a weight is missing, unknown, or of a shape that
    does not fit the others; memory is allocated for the stored weights only."""
    from transformers import WhisperForConditionalGeneration

    arrays = _Arrays(stored.arrays)
    try:
        if stored.specification != SPECIFICATION:
            raise ValueError(f"it is a {stored.specification[:80]!r}, not a {SPECIFICATION}")
        config = _config(arrays, end, start)
        weights = dict(_weights(arrays, config))
        arrays.require_all_used()
        with torch.device("meta"):  # shapes alone
            model = WhisperForConditionalGeneration(config)
        for name, tensor in model.state_dict().items():
            if weights[name].shape != tensor.shape:
                raise ValueError(f"{name} is {list(weights[name].shape)}, expected {list(tensor.shape)}")
        model.load_state_dict(weights, assign=True)
    except ValueError as error:
        raise UserError(f"model.bin does not hold a whole Whisper: {error}; fetch it again") from None
    model.tie_weights()
    return model.eval()


class _Arrays:
    """The arrays of a model.bin, and which of them were used. ValueError for a missing one."""

    def __init__(self, arrays: dict[str, Any]) -> None:
        self._arrays, self._used = arrays, set[str](UNUSED)

    def __getitem__(self, name: str) -> Any:
        if name not in self._arrays:
            raise ValueError(f"it lacks {name}")
        self._used.add(name)
        return self._arrays[name]

    def shape(self, name: str, rank: int) -> tuple[int, ...]:
        shape = self[name].shape
        if len(shape) != rank or 0 in shape:
            raise ValueError(f"{name} is {list(shape)}, expected {rank} dimensions")
        return shape

    def number(self, name: str) -> int:
        if self[name].ndim:
            raise ValueError(f"{name} is not one number")
        return int(self[name])

    def layers(self, side: str) -> int:
        """Number of encoder or decoder layers, by their names."""
        parts = {name.split("/")[1] for name in self._arrays if name.startswith(f"{side}/layer_")}
        return len(parts - {"layer_norm"})

    def part(self, name: str, index: int = 0, parts: int = 1) -> Tensor:
        """One of `parts` equal parts along the first dimension, copied."""
        array = self[name]
        if array.dtype.kind != "f":
            raise ValueError(f"{name} is of {array.dtype.name}, not of a floating-point type")
        if not array.ndim or len(array) % parts:
            raise ValueError(f"{name} is {list(array.shape)}, which is not {parts} equal parts")
        rows = len(array) // parts
        return torch.from_numpy(array[index * rows : (index + 1) * rows].copy())

    def require_all_used(self) -> None:
        if rest := sorted(self._arrays.keys() - self._used):
            raise ValueError(f"it has arrays that no Whisper has: {', '.join(rest)[:200]}")


def _config(arrays: _Arrays, end: int, start: int) -> Any:
    from transformers import WhisperConfig

    for name, value in SETTINGS.items():
        if arrays.number(name) != value:
            raise ValueError(f"{name} is {arrays.number(name)}, for Whisper it must be {value}")
    width, mels, _ = arrays.shape("encoder/conv1/weight", 3)
    sizes = {}
    for side in ("encoder", "decoder"):
        heads = arrays.number(f"{side}/num_heads")
        if heads < 1 or width % heads:
            raise ValueError(f"{side}/num_heads is {heads}, which does not divide the width {width}")
        sizes |= {f"{side}_layers": arrays.layers(side), f"{side}_attention_heads": heads}
        sizes[f"{side}_ffn_dim"] = arrays.shape(f"{side}/layer_0/ffn/linear_0/weight", 2)[0]
    return WhisperConfig(
        d_model=width,
        num_mel_bins=mels,
        vocab_size=arrays.shape("decoder/embeddings/weight", 2)[0],
        max_source_positions=arrays.shape("encoder/position_encodings/encodings", 2)[0],
        max_target_positions=arrays.shape("decoder/position_encodings/encodings", 2)[0],
        **{"bos_token_id": start, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": start},
        **sizes,
    )


def _weights(arrays: _Arrays, config: Any) -> Iterator[tuple[str, Tensor]]:
    """(transformers' name, weight) of every weight."""
    for name in ("conv1", "conv2"):
        yield from _linear(arrays, f"encoder/{name}", f"model.encoder.{name}")
    for side, layers in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        yield f"model.{side}.embed_positions.weight", arrays.part(f"{side}/position_encodings/encodings")
        yield from _norm(arrays, f"{side}/layer_norm", f"model.{side}.layer_norm")
        for number in range(layers):
            yield from _layer(arrays, f"{side}/layer_{number}", f"model.{side}.layers.{number}", side == "decoder")
    if arrays["decoder/projection/weight"] is not arrays["decoder/embeddings/weight"]:
        raise ValueError("its output layer is not tied to its embeddings")
    embeddings = arrays.part("decoder/embeddings/weight")
    yield from ((name, embeddings) for name in ("model.decoder.embed_tokens.weight", "proj_out.weight"))


def _layer(arrays: _Arrays, source: str, name: str, is_decoder: bool) -> Iterator[tuple[str, Tensor]]:
    attention, cross = f"{name}.self_attn", f"{name}.encoder_attn"
    yield from _norm(arrays, f"{source}/self_attention/layer_norm", f"{attention}_layer_norm")
    yield from _linear(arrays, f"{source}/self_attention/linear_0", *(f"{attention}.{part}_proj" for part in "qkv"))
    yield from _linear(arrays, f"{source}/self_attention/linear_1", f"{attention}.out_proj")
    if is_decoder:
        yield from _norm(arrays, f"{source}/attention/layer_norm", f"{cross}_layer_norm")
        yield from _linear(arrays, f"{source}/attention/linear_0", f"{cross}.q_proj")
        yield from _linear(arrays, f"{source}/attention/linear_1", f"{cross}.k_proj", f"{cross}.v_proj")
        yield from _linear(arrays, f"{source}/attention/linear_2", f"{cross}.out_proj")
    yield from _norm(arrays, f"{source}/ffn/layer_norm", f"{name}.final_layer_norm")
    yield from _linear(arrays, f"{source}/ffn/linear_0", f"{name}.fc1")
    yield from _linear(arrays, f"{source}/ffn/linear_1", f"{name}.fc2")


def _norm(arrays: _Arrays, source: str, name: str) -> Iterator[tuple[str, Tensor]]:
    yield f"{name}.weight", arrays.part(f"{source}/gamma")
    yield f"{name}.bias", arrays.part(f"{source}/beta")


def _linear(arrays: _Arrays, source: str, *names: str) -> Iterator[tuple[str, Tensor]]:
    """The layers of `names`, which are stored as one, in this order; a k_proj has no bias."""
    for index, name in enumerate(names):
        bias = arrays.part(f"{source}/bias", index, len(names))
        yield f"{name}.weight", arrays.part(f"{source}/weight", index, len(names))
        if not name.endswith(".k_proj"):
            yield f"{name}.bias", bias
        elif bias.any():
            raise ValueError(f"{source}/bias is not zero for k, which has no bias in a Whisper")
