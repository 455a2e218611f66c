"""The frozen causal LLM: any checkpoint that AutoModelForCausalLM opens."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.errors import UserError
from model.loading import choose_dtype, fingerprint, kind_of, loading, open_pretrained, place_to_open
from model.packing import PACKED, PackedLengths, packed_lengths, switch_to_packed

PROBE = 1000.0  # the largest logit that `_require_plain_logits` compares; soft caps are at 30 to 50


@dataclass(frozen=True)
class Llm:
    """A loaded LLM, its tokenizer and what identifies them."""

    model: Any
    tokenizer: Any
    fingerprint: dict[str, Any]
    padded_because: str | None = None  # why it computes padded batches only; None if it packs

    @property
    def packs(self) -> bool:
        """Whether it takes utterances that lie end to end (model/packing.py)."""
        return self.model.config._attn_implementation == PACKED


def load_llm(source: str, dtype: str = "auto", device: Any = "cpu", trust_remote_code: bool = False) -> Llm:
    """A frozen LLM with its tokenizer, from a Hugging Face id or a local folder, on `device`. UserError if it cannot be
    loaded whole or changes its logits after the output layer."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    with loading("LLM", source):
        place = place_to_open("LLM", source)
        require_llm_type(source, AutoConfig.from_pretrained(place, trust_remote_code=trust_remote_code))
    with loading("LLM's tokenizer", source):
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=trust_remote_code)
    model = open_pretrained(AutoModelForCausalLM, "LLM", source, place, trust_remote_code)
    weights = fingerprint(model)
    model = model.to(device=device, dtype=choose_dtype(dtype, device))
    _require_plain_logits(model, source)
    identity = {"family": model.config.model_type, "weights": weights}
    identity |= {"dim": embedding_dim(model), "vocabulary": len(tokenizer)}
    return Llm(model, tokenizer, identity, try_packing(model))


def require_llm_type(source: str, config: Any) -> None:
    """UserError unless this transformers configuration is of a causal LLM, or of a model with its own code."""
    kind = kind_of(config.model_type)
    if kind != "an LLM" and not getattr(config, "auto_map", None):
        advice = "correct model.llm in the recipe, or --llm"
        raise UserError(f"{source!r} is {kind} (model_type {config.model_type!r}), not an LLM; {advice}")


def embedding_dim(model: Any) -> int:
    """H, the width of the LLM's input embeddings."""
    return model.get_input_embeddings().embedding_dim


@torch.no_grad()
def embedding_rms(model: Any) -> float:
    """Root mean square of the LLM's input embeddings, all tokens together, as it reads them; to three digits, which are
    the same on any device and in any precision. 1 for a model without storage."""
    embed = model.get_input_embeddings()
    if embed.weight.is_meta:
        return 1.0
    tokens = torch.arange(len(embed.weight), device=embed.weight.device)
    squares = sum(float(embed(some).double().square().sum()) for some in tokens.split(4096))
    return float(f"{(squares / (len(tokens) * embed.embedding_dim)) ** 0.5:.3g}")


def logits_at(model: Any, embeds: Tensor, mask: Tensor, positions: Tensor, rows: Tensor) -> Tensor:
    """Next-token logits at chosen places only, as all B x S would be gigabytes with a vocabulary of 152k: embeds
    [B, S, H], mask [B, S], rows and positions [P] -> [P, V]."""
    place = (mask.cumsum(-1) - 1).clamp(min=0)
    output = model.base_model(inputs_embeds=embeds, attention_mask=mask, position_ids=place, use_cache=False)
    return model.get_output_embeddings()(output.last_hidden_state[rows, positions])


def packed_logits_at(model: Any, embeds: Tensor, positions: Tensor, packing: PackedLengths, places: Tensor) -> Tensor:
    """The same for an LLM that `packs`: embeds [T, H], positions [T] in each utterance, places [P] -> [P, V]."""
    output = model.base_model(
        inputs_embeds=embeds[None],
        attention_mask=positions.new_ones(1, 1, 1, 1),  # not read; without it transformers makes a mask of T x T
        position_ids=positions[None],
        packing=packing,
        use_cache=False,
    )
    return model.get_output_embeddings()(output.last_hidden_state[0, places])


@torch.no_grad()
def try_packing(model: Any) -> str | None:
    """Makes a loaded LLM pack; or the reason why its packed logits would differ from its padded ones."""
    own, reason = model.config._attn_implementation, switch_to_packed(model)
    if reason is not None:
        return reason
    try:
        if _packs_exactly(model):
            return None
        reason = "its packed logits are not its padded ones"
    except Exception as error:  # of an architecture that was not written for it
        reason = f"packed it fails ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
    model.set_attn_implementation(own)
    return reason


def _packs_exactly(model: Any) -> bool:
    """Whether utterances of five and three tokens get the same logits packed and padded, and the second the same after
    any first: recurrent and convolutional layers read across, by how much depends on the weights."""
    ids = torch.tensor([[1, 2, 3, 4, 1], [0, 0, 4, 3, 1]], device=model.device)
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]], device=model.device)
    rows, columns = mask.nonzero(as_tuple=True)
    packing, positions = packed_lengths(torch.tensor([5, 3]), model.device), (mask.cumsum(-1) - 1)[rows, columns]
    embed, places = model.get_input_embeddings(), torch.arange(8)
    padded = logits_at(model, embed(ids), mask, columns, rows)
    packed = packed_logits_at(model, embed(ids[rows, columns]), positions, packing, places)
    ids[0] = torch.tensor([4, 3, 2, 2, 3])
    after_others = packed_logits_at(model, embed(ids[rows, columns]), positions, packing, places)

    def near(logits: Tensor, expected: Tensor, tolerance: float) -> bool:
        return bool(((logits - expected).float().norm(dim=-1) <= tolerance * expected.float().norm(dim=-1)).all())

    close, closer = (1e-2, 1e-5) if model.dtype == torch.float32 else (1e-1, 1e-2)
    return near(packed, padded, close) and near(after_others[5:], packed[5:], closer)


@torch.no_grad()
def _require_plain_logits(model: Any, source: str) -> None:
    """UserError unless `logits_at` gives this LLM's own logits; some LLMs scale or cap the head's output, which is
    scaled up to `PROBE` here, so that capping shows whatever the weights."""
    ids = torch.arange(1, 5, device=model.device)[None]
    embeds, mask = model.get_input_embeddings()(ids), torch.ones_like(ids)

    def scale_up(head: Any, inputs: Any, logits: Tensor) -> Tensor:
        return PROBE * F.normalize(logits, p=float("inf"), dim=-1)

    with model.get_output_embeddings().register_forward_hook(scale_up):
        own = model(inputs_embeds=embeds, attention_mask=mask, use_cache=False).logits[0]
        ours = logits_at(model, embeds, mask, torch.arange(4), torch.zeros(4, dtype=torch.int64))
    if not torch.allclose(own.float(), ours.float(), rtol=1e-2, atol=1e-2 * PROBE):
        changes = "changes its logits after the output layer (soft-capping or scaling)"
        raise UserError(f"LLM {source!r} {changes}, which is not supported; use another LLM")
