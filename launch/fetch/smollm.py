"""SmolLM2 out of a GGUF file, by transformers' own reader: its weights of four bits as ordinary bfloat16 ones."""

import importlib.util
from pathlib import Path
from typing import Any

from model.errors import UserError

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
EXTRA = ("gguf", "accelerate")


def require_gguf() -> None:
    """UserError unless what transformers reads GGUF files with is installed."""
    if missing := [name for name in EXTRA if importlib.util.find_spec(name) is None]:
        raise UserError(f"{GGUF} is read with {missing[0]}, which is not installed; pip install 'slam-asr[gguf]'")


def write_smollm(source: Path, out: Path) -> None:
    """Writes the new folder `out` from the GGUF file in the folder `source`. UserError if it has no chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    expanded = GgufConfig(dequantize=True)
    model: Any = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=GGUF, dtype=torch.bfloat16, quantization_config=expanded
    )
    model.hf_quantizer, model.is_quantized = None, False  # its weights are ordinary ones now, and saved as such
    del model.config.quantization_config
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    if not tokenizer.chat_template:
        raise UserError(f"{GGUF} has no chat template; fetch it again")
    for token in ("bos", "eos", "pad"):  # transformers 5.17 takes bos for eos here, and knows no pad
        name = tokenizer.convert_ids_to_tokens(getattr(model.config, f"{token}_token_id"))
        setattr(tokenizer, f"{token}_token", name)
    tokenizer.clean_up_tokenization_spaces = False  # it would take the space out of "it 's"
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
