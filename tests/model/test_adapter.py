"""One contract that every adapter keeps: lengths told beforehand are those that come out, an utterance never sees its
neighbours, all of it is trained, and two files rebuild it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.adapters import ADAPTERS, Adapter, AdapterSpec, adapter_spec, build_adapter
from model.batch import cumulative, dequantise, quantise
from model.encoder_layers import layers_in_frame
from model.errors import UserError
from model.llm import embedding_rms
from model.skeleton import meta_models
from model.weights import AdapterCard, load_weights, read_adapter, read_card, save_adapter
from train.recipe.config import AdapterConfig

ROOT = Path(__file__).resolve().parents[2]
EVERY = pytest.mark.parametrize("type", ADAPTERS)
STACKS = pytest.mark.parametrize("stack", [1, 5])
OWN: dict[str, dict[str, int]] = {"qformer": {"heads": 2, "queries": 3}, "transformer": {"heads": 2, "layers": 3}}


def small(type: str, stack: int = 5, dropout: float = 0.0, **more: Any) -> AdapterSpec:
    """Frames of 6, embeddings of 4, and settings of the type's own other than their defaults."""
    return AdapterSpec(type, stack, 8, dropout, 6, 4, **OWN.get(type, {}) | more)


def adapted(adapter: Adapter, utterances: list[Tensor]) -> list[Tensor]:
    """The embeddings of each utterance, adapted together."""
    speech, speech_cu = adapter(torch.cat(utterances), cumulative([len(frames) for frames in utterances]))
    return list(speech.split(speech_cu.diff().tolist()))


@EVERY
@STACKS
def test_out_len_is_what_forward_gives(type, stack):
    adapter = build_adapter(small(type, stack, 0.1)).eval()
    for lengths in ([*range(0, 3 * stack + 2), 499, 500], [stack - 1], [0, 0]):
        speech, speech_cu = adapter(torch.randn(sum(lengths), 6), cumulative(lengths))
        counts = speech_cu.diff().tolist()
        assert speech.shape == (sum(counts), 4) and speech.dtype == torch.float32
        assert [adapter.out_len(n) for n in lengths] == counts == adapter.out_len(torch.tensor(lengths)).tolist()
        assert adapter.out_len(np.array(lengths)).tolist() == counts
        assert counts == [n // stack * adapter.spec.queries for n in lengths]


@EVERY
@STACKS
def test_an_utterance_is_adapted_as_if_alone_and_its_rest_is_left_out(type, stack):
    adapter = build_adapter(small(type, stack))
    first, short, third, other = (torch.randn(n, 6) for n in (13, stack - 1, 42, 13))
    together = adapted(adapter, [first, short, third])
    for frames, speech in zip((first, short, third), together, strict=True):
        torch.testing.assert_close(speech, adapted(adapter, [frames])[0], rtol=1e-6, atol=1e-6)
        whole = frames[: len(frames) // stack * stack]
        torch.testing.assert_close(speech, adapted(adapter, [whole])[0], rtol=1e-6, atol=1e-6)
    beside_another = adapted(adapter, [other, short, third])
    assert torch.equal(beside_another[2], together[2]) and not torch.equal(beside_another[0], together[0])


@EVERY
@STACKS
def test_every_parameter_is_trained(type, stack):
    adapter = build_adapter(small(type, stack, weighted_layers=2, output_rms=0.1))
    speech, _ = adapter(torch.randn(42, 12), cumulative([20, 0, 22]))
    (speech * torch.randn_like(speech)).sum().backward()
    without = [name for name, parameter in adapter.named_parameters() if parameter.grad is None]
    still = [name for name, p in adapter.named_parameters() if p.grad is not None and not p.grad.any()]
    one_frame = "crossattention.attention.query crossattention.attention.key".split()  # attended to whatever they are
    assert not without and not [name for name in still if stack > 1 or not any(part in name for part in one_frame)]


@EVERY
def test_dropout_follows_torchs_generator_in_training_and_is_nowhere_else(type):
    frames, adapter = [torch.randn(40, 6)], build_adapter(small(type, dropout=0.5))
    plain = build_adapter(replace(adapter.spec, dropout=0.0))
    plain.load_state_dict(adapter.state_dict())
    torch.manual_seed(1)
    first, second = adapted(adapter, frames)[0], adapted(adapter, frames)[0]
    torch.manual_seed(1)
    assert torch.equal(adapted(adapter, frames)[0], first) and not torch.equal(first, second)
    assert torch.equal(adapted(adapter.eval(), frames)[0], adapted(plain, frames)[0])


@EVERY
def test_features_in_half_precision_and_eight_bits_are_computed_in_float32(type):
    adapter, frames, cu = build_adapter(small(type)), torch.randn(10, 6), cumulative([10])
    half, eight_bits = frames.bfloat16(), dequantise(quantise(frames))
    assert torch.equal(adapter(half, cu)[0], adapter(half.float(), cu)[0])
    torch.testing.assert_close(adapter(eight_bits, cu)[0], adapter(frames, cu)[0], rtol=0.1, atol=0.1)
    assert {parameter.dtype for parameter in adapter.parameters()} == {torch.float32}


@EVERY
def test_two_files_rebuild_it(type, tmp_path):
    adapter = build_adapter(small(type, dropout=0.25, weighted_layers=3, output_rms=0.02)).eval()
    card = AdapterCard(adapter.spec, {}, "encoder", {}, "llm", "<speech>", step=3)
    save_adapter(tmp_path, dict(adapter.named_parameters()), card)
    read, weights = read_adapter(tmp_path)
    assert read.spec == adapter.spec
    again = load_weights(build_adapter(read.spec), weights).eval()
    frames = [torch.randn(40, 18), torch.randn(7, 18)]
    for ours, theirs in zip(adapted(again, frames), adapted(adapter, frames), strict=True):
        assert torch.equal(ours, theirs)


def test_a_file_of_before_there_were_other_adapters_opens_with_the_same_meaning():
    stated = json.loads((ROOT / "model/stand_in/adapter/adapter.json").read_text())["spec"]
    spec = read_card(ROOT / "model/stand_in/adapter").spec
    assert len(stated) == 6 and {name: getattr(spec, name) for name in stated} == stated
    assert (spec.weighted_layers, spec.output_rms, spec.frame_dim) == (1, 0.0, stated["encoder_dim"])
    own = AdapterConfig().model_dump()
    assert own["match_norm"] is False
    assert {name: own[name] for name in ("layers", "heads", "queries")} == {
        name: getattr(AdapterSpec, name) for name in ("layers", "heads", "queries")
    }, "a recipe's defaults are those of a file that does not have them"


def test_concat_is_the_papers_and_its_parameters_are_counted_as_in_the_paper():
    """arXiv 2402.08846, by the sizes of the real models."""
    adapter: Any = build_adapter(small("concat"))
    frames = torch.randn(12, 6)
    expected = adapter.linear2(torch.relu(adapter.linear1(frames[:10].reshape(2, 30))))
    assert torch.equal(adapted(adapter, [frames])[0], expected)
    for encoder, llm, millions in (
        (HUBERT["base"], TINYLLAMA, 12.06),
        (HUBERT["large"], TINYLLAMA, 14.68),
        (HUBERT["large"], VICUNA, 18.88),
        (HUBERT["xlarge"], VICUNA, 21.50),
        (WHISPER_LARGE, TINYLLAMA, 17.31),
    ):
        assert round(parameters(encoder, llm) / 1e6, 2) == millions


HUBERT = {
    name: {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": width // 64, "intermediate_size": 9}
    for name, (width, depth) in {"base": (768, 12), "large": (1024, 24), "xlarge": (1280, 48)}.items()
}
WHISPER_LARGE = HUBERT["xlarge"]  # of the same width, 1280
TINYLLAMA = {"hidden_size": 2048, "num_attention_heads": 32, "num_key_value_heads": 4, "vocab_size": 32000}
VICUNA = {"hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000}


def parameters(encoder: dict[str, int], llm: dict[str, int], **settings: Any) -> int:
    """Of the adapter that a recipe makes between two models, which have no storage; layers beside it are few."""
    from transformers import HubertConfig, LlamaConfig

    speech, language = HubertConfig(**encoder | {"num_hidden_layers": 1}), LlamaConfig(**llm, num_hidden_layers=1)  # pyright: ignore
    adapter = meta_models(speech, language, AdapterConfig(**settings).model_dump())[2]
    return sum(parameter.numel() for parameter in adapter.parameters())


@pytest.mark.parametrize(
    ("settings", "millions"),
    [
        ({}, 14.68),
        ({"type": "conv1d"}, 11.54),
        ({"type": "swiglu"}, 12.59),
        ({"type": "qformer", "hidden": 768, "heads": 12, "stack": 17}, 21.27),
        ({"type": "transformer", "hidden": 1024}, 32.54),
    ],
    ids=str,
)
def test_docs_recipe_tells_the_parameters_between_hubert_large_and_tinyllama(settings, millions):
    counted = f"{parameters(HUBERT['large'], TINYLLAMA, **settings) / 1e6:.2f}"
    assert counted == f"{millions:.2f}"
    rows = [line for line in (ROOT / "docs/recipe.md").read_text().splitlines() if line.startswith("| `")]
    (row,) = [line for line in rows if line.startswith(f"| `{settings.get('type', 'concat')}`")]
    assert f" {counted} M " in row


def test_conv1d_is_the_convolution_of_slam_llm():
    adapter: Any = build_adapter(small("conv1d"))
    convolution = nn.Conv1d(6, 6, kernel_size=5, stride=5)
    with torch.no_grad():
        adapter.conv.weight.copy_(convolution.weight.transpose(1, 2).flatten(1))
        adapter.conv.bias.copy_(convolution.bias)  # pyright: ignore
    frames = torch.randn(23, 6)
    convolved = torch.relu(convolution(frames.T[None])[0].T)
    expected = adapter.linear2(torch.relu(adapter.linear1(convolved)))
    torch.testing.assert_close(adapted(adapter, [frames])[0], expected)


def test_swiglu_is_the_projector_of_ultravox():
    """RMSNorm and SwiGLU written out as in ultravox_model.py, with norms that are no longer at their initial 0.4."""
    adapter: Any = build_adapter(small("swiglu"))
    assert all(torch.equal(norm.weight, torch.full_like(norm.weight, 0.4)) for norm in (adapter.ln_pre, adapter.ln_mid))
    torch.nn.init.normal_(adapter.ln_pre.weight)
    torch.nn.init.normal_(adapter.ln_mid.weight)

    def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
        return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)

    frames = torch.randn(20, 6)
    x, gate = (rms_norm(frames.reshape(4, 30), adapter.ln_pre.weight) @ adapter.linear_1.weight.T).chunk(2, dim=-1)
    expected = rms_norm(torch.nn.functional.silu(gate) * x, adapter.ln_mid.weight) @ adapter.linear_2.weight.T
    torch.testing.assert_close(adapted(adapter, [frames])[0], expected)


def test_qformer_reads_each_window_by_itself():
    adapter = build_adapter(small("qformer"))
    frames = torch.randn(15, 6)
    (whole,) = adapted(adapter, [frames])
    windows = [adapted(adapter, [window])[0] for window in frames.split(5)]
    torch.testing.assert_close(whole, torch.cat(windows), rtol=1e-6, atol=1e-6)


def test_transformer_reads_the_whole_utterance_and_knows_where_a_frame_is():
    adapter = build_adapter(small("transformer"))
    frames = torch.randn(15, 6)
    changed = torch.cat([frames[:10], torch.randn(5, 6)])
    before, after, swapped = (adapted(adapter, [each])[0] for each in (frames, changed, frames.roll(5, 0)))
    assert not torch.isclose(before[:2], after[:2]).all(1).any(), "every embedding depends on the last frames"
    assert not torch.isclose(before, swapped.roll(-1, 0)).all(1).any(), "the same frames in other places differ"
    with torch.no_grad():
        for parameter in adapter.linear1.parameters():  # pyright: ignore
            parameter.zero_()
    silent = adapted(adapter, [frames])[0]
    assert not torch.isclose(silent[0], silent[1]).all()


def test_layers_are_mixed_by_trained_weights_that_add_up_to_one():
    spec = small("concat", weighted_layers=3)
    adapter: Any = build_adapter(spec)
    layers = torch.randn(10, 3, 6)
    one = build_adapter(replace(spec, weighted_layers=1))
    one.load_state_dict({name: w for name, w in adapter.state_dict().items() if name != "layer_weights"})
    second = torch.eye(3)[1]
    for logits, shares in ((torch.zeros(3), torch.full((3,), 1 / 3)), (40 * second, second)):
        adapter.layer_weights.data = logits
        mixed = (layers * shares[:, None]).sum(1)
        torch.testing.assert_close(adapted(adapter, [layers.flatten(1)])[0], adapted(one, [mixed])[0])


@pytest.mark.parametrize(("name", "layers"), [("weighted:1-12", 12), ("weighted:3-4", 2), ("mean:1-12", 1), (9, 1)])
def test_a_weighted_layers_name_tells_how_many_are_in_a_frame(name, layers):
    assert layers_in_frame(name) == layers
    spec = adapter_spec(AdapterConfig().model_dump(), {"dim": 32 * layers, "layer": name}, llm())
    assert (spec.encoder_dim, spec.weighted_layers, spec.frame_dim) == (32, layers, 32 * layers)


def llm(scale: float = 1.0) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=64, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=5000
    )
    model: Any = LlamaForCausalLM(config)
    model.get_input_embeddings().weight.data.mul_(scale)
    return model


@EVERY
def test_embeddings_are_scaled_to_the_llms_own_if_asked(type):
    model = llm(scale=3.0)
    rms = embedding_rms(model)
    assert rms == pytest.approx(0.06, rel=0.01) == embedding_rms(model.bfloat16())  # 3 x LLaMA's initializer_range
    settings = AdapterConfig(type=type, hidden=16).model_dump()
    asked = adapter_spec(settings | {"match_norm": True}, {"dim": 6, "layer": 1}, model)
    assert asked.output_rms == rms and adapter_spec(settings, {"dim": 6, "layer": 1}, model).output_rms == 0.0
    speech = adapted(build_adapter(asked), [torch.randn(20, 6)])[0]
    torch.testing.assert_close(speech.pow(2).mean(1).sqrt(), torch.full((len(speech),), rms))
    with torch.device("meta"):
        assert embedding_rms(llm()) == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"type": "concatt"}, "adapter type 'concatt' is not known, did you mean 'concat'?"),
        ({"queries": 2}, "model.adapter.queries is 2, but an adapter of type concat has no queries; leave it out"),
        ({"type": "transformer", "queries": 2}, "queries is 2, but an adapter of type transformer has no queries"),
        ({"type": "swiglu", "layers": 3}, "layers is 3, but an adapter of type swiglu has no layers"),
        ({"type": "conv1d", "heads": 4}, "heads is 4, but an adapter of type conv1d has no heads"),
        ({"type": "swiglu", "hidden": 9}, "model.adapter.hidden is 9, swiglu halves it; give an even number"),
        ({"type": "qformer", "hidden": 768, "heads": 7}, "hidden 768 is not a multiple of model.adapter.heads 7"),
        ({"type": "transformer", "hidden": 100}, "hidden 100 is not a multiple of model.adapter.heads 8"),
        ({"type": "qformer", "heads": 0}, "model.adapter.heads is 0, it must be at least 1"),
    ],
)
def test_settings_that_no_adapter_of_a_type_has_are_refused(settings, message):
    whole = AdapterConfig().model_dump() | settings
    with pytest.raises(UserError) as refused:
        adapter_spec_and_build(whole)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def adapter_spec_and_build(settings: dict[str, Any]) -> Adapter:
    return build_adapter(adapter_spec(settings, {"dim": 6, "layer": 1}, llm()))
