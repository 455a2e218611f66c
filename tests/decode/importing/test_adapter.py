"""Files as other toolkits write them give the outputs of their own models; weights that do not fit are one line.

Their projectors are written out here in plain torch, as SLAM-LLM's src/slam_llm/models/projector.py and
slam_asr_pytorch's modeling/speech_encoder.py compute them."""

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from decode.importing.adapter import Models, import_adapter
from launch.command import main
from model.batch import cumulative
from model.errors import UserError
from model.llm import load_llm
from model.lora import lora_parameters
from model.weights import load_for_decoding, read_card
from tests.tiny import ENCODER_DIM, LLM_DIM, tiny_models

D, K, HIDDEN, H = ENCODER_DIM, 5, 64, LLM_DIM
LENGTHS = [23, 4, 40]  # frames; the second has no whole stack


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    encoder, llm = tiny_models(tmp_path_factory.mktemp("models"))
    return Models(str(encoder), str(llm))


def drawn(seed=0, **shapes):
    generator = torch.Generator().manual_seed(seed)
    return OrderedDict((name, 0.2 * torch.randn(shape, generator=generator)) for name, shape in shapes.items())


def linear(hidden=HIDDEN, first="linear1", last="linear2"):
    shapes = {f"{first}.weight": (hidden, D * K), f"{first}.bias": (hidden,)}
    return drawn(**shapes, **{f"{last}.weight": (H, hidden), f"{last}.bias": (H,)})


def cov1d():
    shapes = {"conv1d.weight": (D, D, K), "conv1d.bias": (D,), "linear1.weight": (HIDDEN, D), "linear1.bias": (HIDDEN,)}
    return drawn(**shapes, **{"linear2.weight": (H, HIDDEN), "linear2.bias": (H,)})


def saved(path, weights, start="encoder_projector."):
    torch.save(OrderedDict((start + name, tensor) for name, tensor in weights.items()), path)
    return path


def of_linear(weights, x, first="linear1", last="linear2"):
    x = x[: len(x) // K * K].reshape(-1, K * D)
    hidden = torch.relu(F.linear(x, weights[f"{first}.weight"], weights[f"{first}.bias"]))
    return F.linear(hidden, weights[f"{last}.weight"], weights[f"{last}.bias"])


def of_cov1d(weights, x):
    if len(x) < K:
        return torch.zeros(0, H)
    convolved = F.conv1d(x.T[None], weights["conv1d.weight"], weights["conv1d.bias"], stride=K)[0].T
    hidden = torch.relu(F.linear(torch.relu(convolved), weights["linear1.weight"], weights["linear1.bias"]))
    return F.linear(hidden, weights["linear2.weight"], weights["linear2.bias"])


def of_sequential(weights, x):
    return of_linear(weights, x, "0", "2")


@pytest.mark.parametrize(
    ("weights", "start", "theirs", "kind"),
    [
        (linear(), "encoder_projector.", of_linear, "concat"),
        (cov1d(), "module.encoder_projector.", of_cov1d, "conv1d"),  # as DistributedDataParallel saves it
        (linear(first="0", last="2"), "speech_encoder.adapter.", of_sequential, "concat"),
    ],
)
def test_a_projector_computes_what_it_computed_there(models, tmp_path, weights, start, theirs, kind):
    card, _ = import_adapter(saved(tmp_path / "model.pt", weights, start), tmp_path / "out", models)
    assert (card.spec.type, card.spec.stack, card.spec.hidden, card.lora) == (kind, K, HIDDEN, None)
    adapter = load_for_decoding(tmp_path / "out").adapter
    frames = drawn(1, frames=(sum(LENGTHS), D))["frames"]
    with torch.no_grad():
        ours, speech_cu = adapter(frames, cumulative(LENGTHS))
    expected = [theirs(weights, part) for part in frames.split(LENGTHS)]
    assert speech_cu.diff().tolist() == [len(part) for part in expected] == [4, 0, 8]
    torch.testing.assert_close(ours, torch.cat(expected), rtol=0, atol=1e-5)
    assert "imported from" in (tmp_path / "out" / "README.md").read_text()


def test_lora_computes_what_it_computed_there(models, tmp_path):
    """W x + alpha / r B A x, in the half precision of DeepSpeed's files."""
    start, rank, alpha, weights = "llm.base_model.model.model.layers.{}.self_attn.", 4, 16.0, {}
    layers = [(number, name) for number in (0, 1) for name in ("q_proj", "v_proj")]
    llm = load_llm(models.llm, "float32").model
    for number, name in layers:
        layer = llm.get_submodule(f"model.layers.{number}.self_attn.{name}")
        a, b = drawn(number, a=(rank, layer.in_features), b=(layer.out_features, rank)).values()
        weights[f"{start.format(number)}{name}.lora_A.default.weight"] = a.half()
        weights[f"{start.format(number)}{name}.lora_B.default.weight"] = b.half()
        layer.weight.data += alpha / rank * (b.half().float() @ a.half().float())
    projector = {f"encoder_projector.{name}": tensor for name, tensor in linear().items()}
    card, _ = import_adapter(
        saved(tmp_path / "model.pt", projector | weights, ""), tmp_path / "out", models, None, alpha
    )
    assert card.lora is not None and (card.lora.rank, card.lora.targets) == (rank, ("q_proj", "v_proj"))
    ours = load_for_decoding(tmp_path / "out", dtype="float32").llm
    assert len(lora_parameters(ours)) == len(weights)
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        logits, expected = (model(input_ids=ids, use_cache=False).logits for model in (ours, llm))
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
    with pytest.raises(UserError, match="alpha 0 cannot be imported"):
        import_adapter(tmp_path / "model.pt", tmp_path / "other", models, None, 0.0)


def test_the_prompt_is_that_of_the_training(models, tmp_path):
    """SLAM-LLM: the speech, then what its tokenizer makes of the prompt, BOS first."""
    import_adapter(saved(tmp_path / "model.pt", linear()), tmp_path / "out", models)
    prompt = load_for_decoding(tmp_path / "out").prompt
    said = "Transcribe speech to text. Output the transcription directly without redundant content. Ensure that the "
    text = f"USER: {said}output is not duplicated. \n ASSISTANT:"
    assert prompt.prefix_ids == []
    assert prompt.suffix_ids == prompt.tokenizer.encode(text) and prompt.suffix_ids[0] == prompt.tokenizer.bos_token_id
    import_adapter(
        saved(tmp_path / "a.pt", linear(first="0", last="2"), "speech_encoder.adapter."), tmp_path / "o", models
    )
    assert read_card(tmp_path / "o").prompt == (
        "<|im_start|>user\n<speech>, transcribe the audio<|im_end|>\n<|im_start|>assistant\n"
    )
    import_adapter(tmp_path / "a.pt", tmp_path / "own", models, "Say <speech> again:")
    assert read_card(tmp_path / "own").prompt == "Say <speech> again:"


def test_the_command_imports_what_transcribe_takes(models, tmp_path, capsys):
    from data_prep.audio.decode import write_flac

    file, out = saved(tmp_path / "model.pt", linear()), str(tmp_path / "out")
    assert main(["import", str(file), out, "--encoder", models.encoder, "--llm", models.llm]) == 0
    assert f"{out}: concat adapter of SLAM-LLM for {models.encoder}" in capsys.readouterr().out
    write_flac(tmp_path / "a.wav", torch.randn(16000, generator=torch.Generator().manual_seed(0)).numpy() * 0.1)
    assert main(["transcribe", out, str(tmp_path / "a.wav"), "--max-new-tokens", "3"]) == 0


NAN = OrderedDict(linear(), **{"linear2.bias": torch.full((H,), float("nan"))})
WEIGHTS_OF_LLM = {"encoder_projector." + name: tensor for name, tensor in linear().items()}


@pytest.mark.parametrize(
    ("weights", "start", "message"),
    [
        (NAN, "encoder_projector.", "linear2.bias has values that are not finite"),
        (
            {"query": torch.zeros(1, 64, 768)},
            "encoder_projector.",
            "SLAM-LLM's q-former, whose queries attend to the whole",
        ),
        ({"fc.weight": torch.zeros(1)}, "", "holds no projector of SLAM-LLM .* it holds fc.weight"),
        ({"linear1.weight": torch.zeros(HIDDEN, D * K)}, "encoder_projector.", "lacks encoder_projector.linear1.bias"),
        (
            linear() | {"linear3.bias": torch.zeros(1)},
            "encoder_projector.",
            "'encoder_projector.linear3.bias', which is",
        ),
        (WEIGHTS_OF_LLM | {"llm.lm_head.weight": torch.zeros(1)}, "", "a weight of the LLM, which was trained too"),
        (WEIGHTS_OF_LLM | {"encoder.conv1.bias": torch.zeros(1)}, "", "a weight of the encoder, which was trained too"),
        (
            linear() | {"linear1.weight": torch.zeros(HIDDEN, 7)},
            "encoder_projector.",
            "takes 7 values, no multiple of the",
        ),
        (
            linear() | {"linear2.weight": torch.zeros(9, HIDDEN)},
            "encoder_projector.",
            "have 9 values, the LLM's 48; give",
        ),
        (
            linear() | {"linear1.bias": torch.zeros(3)},
            "encoder_projector.",
            "linear1.bias is \\(3,\\), expected \\(64,\\)",
        ),
        (linear() | {"linear1.weight": torch.zeros(3)}, "encoder_projector.", "not that of a matrix"),
        (
            cov1d() | {"conv1d.weight": torch.zeros(8, 8, K)},
            "encoder_projector.",
            "convolution is \\[8, 8, 5\\], the encoder",
        ),
    ],
)
def test_weights_that_do_not_fit_are_one_line(models, tmp_path, weights, start, message):
    file = saved(tmp_path / "model.pt", weights, start)
    with pytest.raises(UserError, match=message) as refused:
        import_adapter(file, tmp_path / "out", models)
    assert "\n" not in str(refused.value) and not (tmp_path / "out").exists()


def test_layers_that_the_llm_lacks_are_refused(models, tmp_path):
    names = [f"llm.base_model.model.model.layers.7.self_attn.q_proj.lora_{part}.default.weight" for part in "AB"]
    lora = dict(zip(names, (torch.zeros(4, H), torch.zeros(H, 4)), strict=True))
    with pytest.raises(UserError, match="LoRA weights do not match the model"):
        import_adapter(saved(tmp_path / "model.pt", WEIGHTS_OF_LLM | lora, ""), tmp_path / "out", models)


def test_a_linear_layer_alone_is_what_the_test_compares_with():
    layer, weights = (
        nn.Sequential(nn.Linear(D * K, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, H)),
        linear(first="0", last="2"),
    )
    layer.load_state_dict(weights)
    x = drawn(2, x=(10, D))["x"]
    torch.testing.assert_close(layer(x.reshape(2, -1)), of_sequential(weights, x))
