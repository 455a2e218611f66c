"""Packed is padded without the padding: the same loss and gradients, or the LLM says that it does not pack."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import model.llm
from model.adapters import AdapterSpec, build_adapter
from model.batch import Batch, pack
from model.llm import Llm, try_packing
from model.loading import freeze
from model.packing import PACKED, PackedLengths, packed_attention, packed_lengths
from model.slam_asr import SlamAsr

SIZES: Any = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {"num_key_value_heads": 2}
IDS: Any = {"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.2}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4}
PACKING = {
    "llama": {**SIZES, **GROUPED},
    "mistral": {**SIZES, **GROUPED, "sliding_window": 4},
    "qwen2": {**SIZES, **GROUPED},
    "qwen3": {**SIZES, **GROUPED, "head_dim": 8},
    "gemma": {**SIZES, **GROUPED, "head_dim": 8},
    "gemma3_text": {**SIZES, **GROUPED, "head_dim": 8, "sliding_window": 3, "layer_types": ["sliding_attention"] * 2},
    "gpt_neox": SIZES,
    "gpt2": GPT2,  # learned absolute positions
    "opt": {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32},
}
PADDED = {
    "gemma2": ({**SIZES, **GROUPED, "head_dim": 8}, "soft-caps its attention logits"),
    "bloom": ({"hidden_size": 32, "n_layer": 2, "n_head": 4}, "'eager', not 'sdpa'"),  # ALiBi
    "falcon": (SIZES, "common attention interface"),
    # Its convolution reads across ends, with such weights so little that the loss hardly shows it.
    "lfm2": (
        {**SIZES, **GROUPED, "layer_types": ["conv", "full_attention"], "initializer_range": 0.02},
        "differ from its padded ones",
    ),
}


def llm_of(family: str, options: dict[str, Any], dtype: torch.dtype = torch.float32) -> Llm:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**IDS, **options}))
    model = freeze(model.to(dtype))
    return Llm(model, None, {}, try_packing(model))


def recogniser(llm: Llm, layout: Any = "packed") -> SlamAsr:
    torch.manual_seed(1)
    prompt: Any = SimpleNamespace(prefix_ids=[1, 5, 6], suffix_ids=[7, 8])
    return SlamAsr(None, build_adapter(AdapterSpec("concat", 2, 16, 0.0, 12, 32)), llm, prompt, layout)


@pytest.fixture(scope="module")
def batch() -> Batch:
    generator = torch.Generator().manual_seed(2)
    features = [torch.randn(n, 12, generator=generator) for n in (23, 3, 9, 2)]
    targets = [torch.randint(3, 64, (n,), generator=generator).tolist() + [2] for n in (6, 0, 11, 1)]
    return pack(["a", "b", "c", "d"], ["", "", "", ""], targets, features=features)


def loss_and_gradients(model: SlamAsr, batch: Batch) -> tuple[torch.Tensor, list[torch.Tensor]]:
    loss = model(batch).loss
    return loss.detach(), list(torch.autograd.grad(loss / batch.num_targets, list(model.adapter.parameters())))


@pytest.mark.parametrize("family", PACKING)
def test_packed_and_padded_have_one_loss_and_one_gradient(batch, family):
    llm = llm_of(family, PACKING[family])
    model, reference = recogniser(llm), recogniser(llm, "padded")
    assert llm.packs and llm.padded_because is None and model.packing_note is None
    assert (model.layout, reference.layout) == ("packed", "padded")
    widths = []
    with model.llm.base_model.register_forward_pre_hook(
        lambda module, given, named: widths.append(named["inputs_embeds"].shape[:2]), with_kwargs=True
    ):
        loss, gradients = loss_and_gradients(model, batch)
        wanted, wanted_gradients = loss_and_gradients(reference, batch)
    lengths = (batch.feature_cu.diff() // 2 + 5 + batch.target_cu.diff() - 1).tolist()
    assert widths == [(1, sum(lengths)), (len(lengths), max(lengths))]
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients, wanted_gradients, rtol=1e-3, atol=1e-6)
    assert gradients[0].abs().max() > 1e-4
    assert int(model(batch).num_correct) == int(reference(batch).num_correct)


@pytest.mark.parametrize("family", PADDED)
def test_an_llm_that_packed_would_be_another_is_padded_and_says_so(batch, family):
    options, reason = PADDED[family]
    llm = llm_of(family, options)
    model = recogniser(llm)
    assert not llm.packs and model.layout == "padded" and llm.model.config._attn_implementation in ("sdpa", "eager")
    assert model.packing_note is not None and reason in model.packing_note
    assert torch.equal(model(batch).loss, recogniser(llm, "padded")(batch).loss)
    assert recogniser(llm, "padded").packing_note is None


def test_a_model_that_did_not_come_through_load_llm_is_never_packed_unawares(batch):
    from transformers import LlamaConfig, LlamaForCausalLM

    llm = Llm(freeze(LlamaForCausalLM(LlamaConfig(**IDS, **SIZES))), None, {})
    assert recogniser(llm).layout == "padded" and recogniser(llm).packing_note


@pytest.mark.parametrize("wrong", [[19], [5, 5, 9]])
def test_an_end_in_the_wrong_place_shows(batch, monkeypatch, wrong):
    """The comparison above is one that a leak between utterances would fail."""
    model = recogniser(llm_of("llama", PACKING["llama"]))
    loss, _ = loss_and_gradients(model, batch)
    total = int((batch.feature_cu.diff() // 2 + 4 + batch.target_cu.diff()).sum())
    lengths = torch.tensor([*wrong, total - sum(wrong)])
    monkeypatch.setattr("model.slam_asr.packed_lengths", lambda _, device: packed_lengths(lengths, device))
    assert (loss_and_gradients(model, batch)[0] - loss).abs() > 1e-2


@pytest.mark.parametrize("causal, window", [(True, None), (True, 4), (True, 1), (True, 50), (False, None)])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_one_kernel_is_asked_for_what_one_by_one_computes(monkeypatch, causal, window, groups):
    """FlashAttention itself runs on a GPU only; a plain reading of its documentation stands in for it."""
    module: Any = SimpleNamespace(is_causal=causal, num_key_value_groups=groups)
    generator = torch.Generator().manual_seed(3)
    packing = packed_lengths(torch.tensor([7, 1, 12]), torch.device("cpu"))
    query = torch.randn(1, 4, 20, 8, generator=generator)
    key, value = torch.randn(2, 1, 4 // groups, 20, 8, generator=generator).unbind(0)
    options = {"sliding_window": window, "scaling": 0.3, "dropout": 0.0}
    one_by_one, _ = packed_attention(module, query, key, value, None, packing, **options)
    monkeypatch.setattr("model.packing._kernel_takes", lambda query, value: True)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attention)
    one_kernel, _ = packed_attention(module, query, key, value, None, packing, **options)
    assert one_kernel.shape == one_by_one.shape == (1, 20, 4, 8)
    torch.testing.assert_close(one_kernel, one_by_one, rtol=1e-4, atol=1e-5)


def varlen_attention(query, key, value, cu_q, cu_k, max_q, max_k, *, scale, window_size):
    """[T, h, d] -> [T, h, d], as torch.nn.attention.varlen.varlen_attn documents: a window of -1 has no bound."""
    assert cu_q.dtype == cu_k.dtype == torch.int32 and max_q == max_k == int(cu_q.diff().max())
    place = torch.arange(len(query))
    same = (place[:, None] >= cu_q[1:]).sum(1)[:, None] == (place[:, None] >= cu_q[1:]).sum(1)
    before, after = window_size
    distance = place[:, None] - place
    seen = same & ((distance <= before) | (before < 0)) & ((-distance <= after) | (after < 0))
    q, k, v = (part.transpose(0, 1) for part in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, seen, scale=scale, enable_gqa=True).transpose(0, 1)


@pytest.mark.parametrize("option", [{"softcap": 30.0}, {"s_aux": torch.zeros(4)}, {"dropout": 0.1}])
def test_attention_that_is_asked_for_more_than_it_has_refuses(option):
    module: Any = SimpleNamespace(is_causal=True)
    query = torch.randn(1, 4, 5, 8)
    with pytest.raises(ValueError, match=f"packed attention has no {next(iter(option))}"):
        packed_attention(module, query, query, query, None, PackedLengths([5], torch.tensor([0, 5])), **option)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_packs_as_it_pads(batch, dtype):
    llm = llm_of("llama", PACKING["llama"], dtype)
    loss, _ = loss_and_gradients(recogniser(llm), batch)
    wanted, _ = loss_and_gradients(recogniser(llm, "padded"), batch)
    assert llm.model.config._attn_implementation == PACKED
    torch.testing.assert_close(loss, wanted, rtol=2e-2, atol=0)


def test_bfloat16_is_no_excuse_for_mixing_utterances():
    """lfm2's convolution changes the logits by 0.2 % here: less than padding does."""
    llm = llm_of("lfm2", PADDED["lfm2"][0], torch.bfloat16)
    assert not llm.packs and llm.padded_because == "its packed logits differ from its padded ones"


@pytest.mark.parametrize("token", [3, 24, 34])
def test_what_half_precision_makes_of_one_place_is_no_reason_to_pad(monkeypatch, token):
    """In SmolLM2 bfloat16 is far from float32 at special tokens, by another distance packed and padded."""
    exact = model.llm.packed_logits_at

    def noisy(llm, embeds, positions, packing, places):
        logits = exact(llm, embeds, positions, packing, places)
        logits[(embeds == llm.get_input_embeddings()(torch.tensor([token]))).all(-1)] *= 2
        return logits

    monkeypatch.setattr("model.llm.packed_logits_at", noisy)
    assert llm_of("llama", PACKING["llama"], torch.bfloat16).packs


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_utterances_attend_in_float32_on_a_cpu(dtype, monkeypatch):
    module: Any = SimpleNamespace(is_causal=True)
    packing = PackedLengths([5, 3], torch.tensor([0, 5, 8]))
    given = query, key, value = torch.randn(3, 1, 4, 8, 8).to(dtype).requires_grad_().unbind()
    pairs = zip(*(part.float().split([5, 3], dim=2) for part in given), strict=True)
    exact = torch.cat([F.scaled_dot_product_attention(q, k, v, is_causal=True) for q, k, v in pairs], dim=2)
    exact = exact.transpose(1, 2).to(dtype)
    attended, _ = packed_attention(module, query, key, value, None, packing)
    assert attended.dtype == dtype and torch.equal(attended, exact)
    upstream = torch.randn_like(attended)
    gradients = torch.autograd.grad(attended, given, upstream)
    for gradient, wanted in zip(gradients, torch.autograd.grad(exact, given, upstream), strict=True):
        assert gradient.dtype == dtype and torch.equal(gradient, wanted)
    monkeypatch.setattr("model.packing.SHORT", 0)
    torch.testing.assert_close(packed_attention(module, query, key, value, None, packing)[0], exact, rtol=0, atol=3e-2)


def gradients_in(dtype: torch.dtype, batch: Batch, scale: float, share: float = 1e-5) -> tuple[Any, torch.Tensor]:
    """The loss, and the adapter's gradients of `share` of it, end to end."""
    model = recogniser(llm_of("llama", PACKING["llama"], dtype))
    model.gradient_scale = scale
    loss = model(batch).loss
    gradients = torch.autograd.grad(loss * share, list(model.adapter.parameters()))
    assert all(gradient.dtype == torch.float32 for gradient in gradients)
    return loss.detach(), torch.cat([gradient.flatten() for gradient in gradients])


def test_scaled_gradients_survive_float16_and_come_out_true(batch):
    _, wanted = gradients_in(torch.float32, batch, 1.0)
    loss, plain = gradients_in(torch.float16, batch, 1.0)
    same_loss, scaled = gradients_in(torch.float16, batch, 2.0**12)
    off_plain, off_scaled = ((found - wanted).norm() / wanted.norm() for found in (plain, scaled))
    assert torch.equal(loss, same_loss)
    assert off_scaled < 0.02 and off_plain > 5 * off_scaled
    _, vanished = gradients_in(torch.float16, batch, 1.0, 1e-8)
    _, kept = gradients_in(torch.float16, batch, 2.0**12, 1e-8)
    assert not vanished.any() and (kept * 1e3 - wanted).norm() < 0.1 * wanted.norm()


def test_a_scale_is_exact_in_float32_and_one_changes_nothing(batch):
    loss, gradients = gradients_in(torch.float32, batch, 1.0)
    for scale in (1.0, 2.0**12):
        again, scaled = gradients_in(torch.float32, batch, scale)
        assert torch.equal(again, loss) and torch.equal(scaled, gradients)


def test_what_overflows_stays_to_be_seen(batch):
    _, gradients = gradients_in(torch.float16, batch, 2.0**40)
    assert not gradients.isfinite().all()
