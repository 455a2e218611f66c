"""The frozen causal LLM: any checkpoint that AutoModelForCausalLM opens.

Begin with load_llm; logits.py computes the logits. May import the modules of model only."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.errors import UserError, require_known
from model.llm.bits import BYTES_A_WEIGHT, is_quantised, quantise, require_quantisable
from model.llm.generation import require_generating
from model.llm.logits import logits_at, packed_logits_at, require_own_logits
from model.loading import DTYPES, choose_dtype, fingerprint, kind_of, loading, open_pretrained, place_to_open
from model.packing import PACKED, packed_lengths, switch_to_packed

PROBE_LENGTHS = [9, 6]  # tokens of the two utterances with which packing is tested
PROBE_WINDOW = 2  # tokens of every sliding window then


@dataclass(frozen=True)
class Llm:
    """A loaded LLM, its tokenizer and what identifies them."""

    model: Any
    tokenizer: Any
    fingerprint: dict[str, Any]
    padded_because: str | None = None  # the reason if it computes padded batches only; None if it packs

    @property
    def packs(self) -> bool:
        """Whether it computes packed batches, utterances end to end (model/packing.py)."""
        return self.model.config._attn_implementation == PACKED


def load_llm(source: str, dtype: str = "auto", device: Any = "cpu", trust_remote_code: bool = False) -> Llm:
    """A frozen LLM with its tokenizer, from a Hugging Face id, a local folder or a GGUF file, on `device`; `dtype` may
    be a quantised one (bits.py). UserError if it cannot be loaded whole, if logits.py cannot reproduce its logits, or
    if it cannot generate from embeddings."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    computed = computing_dtype(dtype, device)
    with loading("LLM", source):
        place = place_to_open("LLM", source)
        require_llm_type(source, AutoConfig.from_pretrained(place, trust_remote_code=trust_remote_code))
    with loading("LLM's tokenizer", source):
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=trust_remote_code)
    model = open_pretrained(AutoModelForCausalLM, "LLM", source, place, trust_remote_code)
    weights = fingerprint(model)
    if is_quantised(dtype):
        quantise(model, dtype, device, source)
    model = model.to(device=device, dtype=computed)
    require_own_logits(model, source)
    require_generating(model, source)
    identity = {"family": model.config.model_type, "weights": weights}
    identity |= {"dim": embedding_dim(model), "vocabulary": len(tokenizer)}
    return Llm(model, tokenizer, identity, try_packing(model))


def computing_dtype(requested: str, device: Any) -> torch.dtype:
    """The dtype that an LLM of the requested dtype computes in on `device`; for a quantised LLM, that of `auto`.
    UserError if the dtype is unknown, or needs a library that is not installed."""
    require_known("LLM dtype", requested, ("auto", *DTYPES, *BYTES_A_WEIGHT))
    if is_quantised(requested):
        require_quantisable(requested)
        return choose_dtype("auto", device)
    return choose_dtype(requested, device)


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
    """Root mean square of the LLM's input embeddings over all tokens, with the scaling that the LLM applies to them,
    rounded to three digits so that it is the same on any device and in any precision. 1 on the meta device."""
    embed = model.get_input_embeddings()
    if embed.weight.is_meta:
        return 1.0
    tokens = torch.arange(len(embed.weight), device=embed.weight.device)
    squares = sum(float(embed(chunk).double().square().sum()) for chunk in tokens.split(4096))
    return float(f"{(squares / (len(tokens) * embed.embedding_dim)) ** 0.5:.3g}")


@torch.no_grad()
def try_packing(model: Any) -> str | None:
    """Switches a loaded LLM to packed batches, if its logits stay the same; else the reason why not."""
    attention, reason = model.config._attn_implementation, switch_to_packed(model)
    if reason is not None:
        return reason
    try:
        if _packs_exactly(model):
            return None
        reason = "its packed logits differ from its padded ones"
    except Exception as error:  # of an architecture that was not written for it
        reason = f"packing fails ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
    model.set_attn_implementation(attention)
    return reason


def _packs_exactly(model: Any) -> bool:
    """Whether two utterances get the same logits packed and padded, also with sliding windows of `PROBE_WINDOW` tokens,
    and the second the same logits after another first one: recurrent and convolutional layers mix neighbouring
    utterances, more or less strongly depending on the weights.

    Packed and padded inputs have other shapes, so in bfloat16 other roundings, which single places magnify (those of
    special tokens, and of an utterance's first: in SmolLM2 up to the whole logit). So the tokens are from the middle of
    the vocabulary, and the median over an utterance's places counts. Two packed inputs of one shape differ at none."""
    first, second = PROBE_LENGTHS
    embed, places = model.get_input_embeddings(), torch.arange(first + second)
    spread = torch.linspace(0.2, 0.8, 2 * first + second, device=model.device) * embed.weight.shape[0]
    own, others = spread.long().split([first + second, first])
    mask = torch.ones(2, first, dtype=torch.int64, device=model.device)
    mask[1, : first - second] = 0
    rows, columns = mask.nonzero(as_tuple=True)
    ids = torch.zeros_like(mask).masked_scatter(mask.bool(), own)
    packing = packed_lengths(torch.tensor(PROBE_LENGTHS), model.device)
    positions = (mask.cumsum(-1) - 1)[rows, columns]

    def packed_of(tokens: Tensor) -> Tensor:
        return packed_logits_at(model, embed(tokens), positions, packing, places)

    def distances(logits: Tensor, expected: Tensor) -> Tensor:
        return (logits - expected).float().norm(dim=-1) / expected.float().norm(dim=-1)

    def same_as_padded(packed: Tensor) -> bool:
        far = distances(packed, logits_at(model, embed(ids), mask, columns, rows))
        return all(bool(part.median() <= close) for part in far.split(PROBE_LENGTHS))

    close, closer = (1e-2, 1e-5) if model.dtype == torch.float32 else (1e-1, 1e-3)
    packed = packed_of(own)
    packs = same_as_padded(packed)
    with _narrow_windows(model) as narrowed:
        packs = packs and (not narrowed or same_as_padded(packed_of(own)))
    after_others = packed_of(torch.cat([others, own[first:]]))
    return packs and bool((distances(after_others, packed)[first:] <= closer).all())


@contextmanager
def _narrow_windows(model: Any) -> Iterator[bool]:
    """Sets every sliding window of the LLM to `PROBE_WINDOW`; yields whether there is one. Padded batches use the
    window of the configuration, packed ones that of each layer, which some families (Qwen2-MoE, PhiMoE) lack."""
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
