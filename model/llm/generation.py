"""transformers' `generate` from embeddings, which an LLM of speech begins from."""

import inspect
from typing import Any

import torch

from model.errors import UserError

TOLERANCE, IN_HALF_PRECISION = 1e-2, 1e-1  # of the logits' norm


@torch.no_grad()
def require_generating(model: Any, source: str) -> None:
    """Lets `generate` begin from embeddings also where a family's own preparation of inputs passes them on without
    naming them, for which `generate` refuses it: Gemma 3 with its vision tower, Falcon-H1, Nemotron-H. UserError where
    its logits are then not those of the LLM's own forward."""
    prepare = model.prepare_inputs_for_generation
    if "inputs_embeds" in inspect.signature(prepare).parameters:
        return

    def naming_them(input_ids: Any, *given: Any, inputs_embeds: Any = None, **kwargs: Any) -> Any:
        return prepare(input_ids, *given, inputs_embeds=inputs_embeds, **kwargs)

    model.prepare_inputs_for_generation = naming_them
    try:
        same = _generates(model)
    except Exception:  # of an architecture that takes token ids alone
        same = False
    if not same:
        kind = model.config.model_type
        raise UserError(
            f"LLM {source!r} ({kind}) does not generate from embeddings in transformers, so that its adapter could not "
            "transcribe; use another LLM"
        )


def _generates(model: Any) -> bool:
    """Whether the logits of the first two tokens, the second from the cache, are those of a plain forward."""
    from transformers import GenerationConfig

    embed, own = model.get_input_embeddings(), model.generation_config
    embeds = embed(torch.arange(1, 5, device=model.device)[None])
    asked = {"max_new_tokens": 2, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    model.generation_config = GenerationConfig()  # else `generate` takes from it what ours leaves open
    try:
        mask = torch.ones(1, 4, dtype=torch.int64, device=model.device)
        made = model.generate(inputs_embeds=embeds, attention_mask=mask, generation_config=GenerationConfig(**asked))
    finally:
        model.generation_config = own
    whole = torch.cat([embeds, embed(made.logits[0].argmax(-1)[None])], 1)
    plain = model(inputs_embeds=whole, use_cache=False).logits[0, -2:].float()
    tolerance = TOLERANCE if model.dtype == torch.float32 else IN_HALF_PRECISION
    return bool((torch.cat(made.logits).float() - plain).norm() <= tolerance * plain.norm())
