"""Files and arrays as CTranslate2 has them: written field by field, and of a tiny Whisper."""

from typing import Any

import numpy as np
import torch

from launch.fetch.ctranslate2 import DTYPES, Model
from launch.fetch.whisper import SETTINGS

END, START = 0, 1
HEADS = 2


def written(arrays: dict[str, np.ndarray], aliases: dict[str, str] | None = None, spec: str = "WhisperSpec") -> bytes:
    """A model.bin of CTranslate2."""

    def number(value: int, size: int) -> bytes:
        return value.to_bytes(size, "little")

    def text(value: str) -> bytes:
        return number(len(value) + 1, 2) + value.encode() + b"\0"

    kinds = {np.dtype(name): kind for kind, name in DTYPES.items()}
    data = [number(6, 4), text(spec), number(3, 4), number(len(arrays), 4)]
    for name, array in arrays.items():
        shape = b"".join(number(size, 4) for size in array.shape)
        data += [text(name), number(array.ndim, 1), shape, number(kinds[array.dtype], 1), number(array.nbytes, 4)]
        data.append(array.tobytes())
    aliases = aliases or {}
    return b"".join([*data, number(len(aliases), 4), *(text(a) + text(name) for a, name in aliases.items())])


def tiny_whisper(vocabulary: int = 40) -> Any:
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    sizes: dict[str, Any] = {
        "d_model": 8,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_ffn_dim": 12,
        "decoder_ffn_dim": 16,
    }
    sizes |= {"encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS, "num_mel_bins": 80}
    sizes |= {"max_source_positions": 1500, "max_target_positions": 10, "vocab_size": vocabulary}
    ids: dict[str, Any] = {
        "bos_token_id": START,
        "eos_token_id": END,
        "pad_token_id": END,
        "decoder_start_token_id": START,
    }
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(WhisperConfig(**sizes, **ids))
    for weight in model.parameters():  # transformers' biases begin at zero
        torch.nn.init.normal_(weight)
    return model.half().eval()


def in_ctranslate2(model: Any) -> dict[str, np.ndarray]:
    """Its weights as CTranslate2's converter arranges them (TransformersConverter, WhisperLoader); the output layer is
    an alias."""
    weights = {name.removeprefix("model."): tensor.numpy() for name, tensor in model.state_dict().items()}
    arrays = {name: np.array(value, "<i1") for name, value in SETTINGS.items()}
    arrays |= {"decoder/alignment_layer": np.array(-1, "<i2"), "decoder/alignment_heads": np.array(1, "<i2")}
    arrays["decoder/embeddings/weight"] = weights["decoder.embed_tokens.weight"]

    def joined(target: str, *names: str) -> None:
        whole = [weights[f"{name}.weight"] for name in names]
        arrays[f"{target}/weight"] = np.concatenate(whole)
        zeros = [np.zeros(len(weight), "<f2") for weight in whole]
        biases = [weights.get(f"{name}.bias", zero) for name, zero in zip(names, zeros, strict=True)]
        arrays[f"{target}/bias"] = np.concatenate(biases)

    def norm(target: str, name: str) -> None:
        arrays[f"{target}/gamma"], arrays[f"{target}/beta"] = weights[f"{name}.weight"], weights[f"{name}.bias"]

    joined("encoder/conv1", "encoder.conv1")
    joined("encoder/conv2", "encoder.conv2")
    for side, layers in (("encoder", model.config.encoder_layers), ("decoder", model.config.decoder_layers)):
        arrays[f"{side}/num_heads"] = np.array(HEADS, "<i2")
        arrays[f"{side}/position_encodings/encodings"] = weights[f"{side}.embed_positions.weight"]
        norm(f"{side}/layer_norm", f"{side}.layer_norm")
        for number in range(layers):
            to, of = f"{side}/layer_{number}", f"{side}.layers.{number}"
            norm(f"{to}/self_attention/layer_norm", f"{of}.self_attn_layer_norm")
            joined(f"{to}/self_attention/linear_0", *(f"{of}.self_attn.{part}_proj" for part in "qkv"))
            joined(f"{to}/self_attention/linear_1", f"{of}.self_attn.out_proj")
            if side == "decoder":
                norm(f"{to}/attention/layer_norm", f"{of}.encoder_attn_layer_norm")
                joined(f"{to}/attention/linear_0", f"{of}.encoder_attn.q_proj")
                joined(f"{to}/attention/linear_1", *(f"{of}.encoder_attn.{part}_proj" for part in "kv"))
                joined(f"{to}/attention/linear_2", f"{of}.encoder_attn.out_proj")
            norm(f"{to}/ffn/layer_norm", f"{of}.final_layer_norm")
            joined(f"{to}/ffn/linear_0", f"{of}.fc1")
            joined(f"{to}/ffn/linear_1", f"{of}.fc2")
    return arrays


def stored(model: Any) -> Model:
    arrays = in_ctranslate2(model)
    return Model("WhisperSpec", arrays | {"decoder/projection/weight": arrays["decoder/embeddings/weight"]})
