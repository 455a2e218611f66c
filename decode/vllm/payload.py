"""Prompt embeddings as vLLM's completions endpoint takes them (docs.vllm.ai, "Prompt Embedding Inputs").

The format is base64 of a file that torch.save wrote. This is the one file that calls it: nothing here is read back, and
vLLM reads with weights_only=True, which builds tensors and runs no code."""

import base64
import io

import torch
from torch import Tensor


def as_base64(embeds: Tensor) -> str:
    """embeds [S, H], float32, bfloat16 or float16, on any device; vLLM casts them to its own dtype."""
    file = io.BytesIO()
    torch.save(embeds.detach().cpu().clone(), file)  # a clone, as the file of a view holds the whole batch
    return base64.b64encode(file.getvalue()).decode("ascii")
