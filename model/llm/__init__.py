"""The frozen causal LLM: any checkpoint that AutoModelForCausalLM opens.

Begin with load_llm; logits.py computes the logits. May import the modules of model only."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.errors import UserError, require_known
from model.llm.bits import BYTES_A_WEIGHT, is_few_bits, require_few_bits, to_few_bits
from model.llm.generation import require_generating
from model.llm.logits import logits_at, packed_logits_at, require_own_logits
from model.loading import DTYPES, choose_dtype, fingerprint, kind_of, loading, open_pretrained, place_to_open
from model.packing import PACKED, packed_lengths, switch_to_packed

PROBE_WINDOW = 2  # tokens that a layer with a sliding window sees while packing is tried


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
    """A frozen LLM with its tokenizer, from a Hugging Face id or a local folder, on `device`; `dtype` may be of few
    bits (bits.py). UserError if it cannot be loaded whole, if its logits are not what logits.py computes, or if it does
    not generate from embeddings."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    computed = computing_dtype(dtype, device)
    with loading("LLM", source):
        place = place_to_open("LLM", source)
        require_llm_type(source, AutoConfig.from_pretrained(place, trust_remote_code=trust_remote_code))
    with loading("LLM's tokenizer", source):
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=trust_remote_code)
    model = open_pretrained(AutoModelForCausalLM, "LLM", source, place, trust_remote_code)
    weights = fingerprint(model)
    if is_few_bits(dtype):
        to_few_bits(model, dtype, device, source)
    model = model.to(device=device, dtype=computed)
    require_own_logits(model, source)
    require_generating(model, source)
    identity = {"family": model.config.model_type, "weights": weights}
    identity |= {"dim": embedding_dim(model), "vocabulary": len(tokenizer)}
    return Llm(model, tokenizer, identity, try_packing(model))


def computing_dtype(asked: str, device: Any) -> torch.dtype:
    """What an LLM computes in on `device` if `asked` is its dtype; one of few bits as `auto`. UserError if unknown, or
    if it cannot be had here."""
    require_known("LLM dtype", asked, ("auto", *DTYPES, *BYTES_A_WEIGHT))
    if is_few_bits(asked):
        require_few_bits(asked)
        return choose_dtype("auto", device)
    return choose_dtype(asked, device)


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
    """Whether utterances of five and three tokens get the same logits packed and padded, also where layers see but
    `PROBE_WINDOW` tokens, and the second the same after any first: recurrent and convolutional layers read across, by
    how much depends on the weights."""
    ids = torch.tensor([[1, 2, 3, 4, 1], [0, 0, 4, 3, 1]], device=model.device)
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]], device=model.device)
    rows, columns = mask.nonzero(as_tuple=True)
    packing, positions = packed_lengths(torch.tensor([5, 3]), model.device), (mask.cumsum(-1) - 1)[rows, columns]
    embed, places = model.get_input_embeddings(), torch.arange(8)

    def both() -> tuple[Tensor, Tensor]:
        padded = logits_at(model, embed(ids), mask, columns, rows)
        return packed_logits_at(model, embed(ids[rows, columns]), positions, packing, places), padded

    packed, padded = both()
    with _narrow_windows(model) as narrowed:
        in_windows = both() if narrowed else (packed, padded)
    ids[0] = torch.tensor([4, 3, 2, 2, 3])
    after_others = packed_logits_at(model, embed(ids[rows, columns]), positions, packing, places)

    def near(logits: Tensor, expected: Tensor, tolerance: float) -> bool:
        return bool(((logits - expected).float().norm(dim=-1) <= tolerance * expected.float().norm(dim=-1)).all())

    close, closer = (1e-2, 1e-5) if model.dtype == torch.float32 else (1e-1, 1e-2)
    return near(packed, padded, close) and near(*in_windows, close) and near(after_others[5:], packed[5:], closer)


@contextmanager
def _narrow_windows(model: Any) -> Iterator[bool]:
    """With every sliding window of the LLM at `PROBE_WINDOW`; whether there is one. Padded batches read it from the
    configuration, packed ones get it from each layer, and some families (Qwen2-MoE, PhiMoE) give none there."""
    config = model.config.get_text_config()
    holders = [config, *(module for module in model.modules() if module is not model)]
    windows = [(holder, window) for holder in holders if (window := getattr(holder, "sliding_window", None))]
    try:
        for holder, _ in windows:
            holder.sliding_window = PROBE_WINDOW
        yield bool(windows)
    finally:
        for holder, window in windows:
            holder.sliding_window = window
