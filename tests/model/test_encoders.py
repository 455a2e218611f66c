"""Every encoder family against transformers' own model and feature extractor, and what a wrong checkpoint gets."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bench.toys import TOYS, configs
from model.batch import cumulative
from model.encoders import ENCODER_FAMILIES, encoder_dtype, known_fingerprint, load_encoder, narrow_groups
from model.errors import UserError
from tests.tiny import tiny_models

LENGTHS = [400, 401, 719, 720, 1039, 1040, 3999, 4000, 7777, 16000]
DEPTH = 3
STYLES = {  # as HuBERT-base and as HuBERT-large: norm in the convolutions, norm in the transformer
    "group": {"feat_extract_norm": "group", "do_stable_layer_norm": False, "conv_bias": False},
    "layer": {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
}
CASES = [(family, style) for family in ENCODER_FAMILIES for style in STYLES]
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("encoders")


def checkpoint(folder: Path, family: str, style: str = "layer", seed: int = 0, rate: int = 16_000, **more) -> str:
    from transformers import AutoConfig, AutoModel, Wav2Vec2FeatureExtractor

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModel.from_config(AutoConfig.for_model(family, **{**SIZES, **STYLES[style], **more}))
        for name, weights in model.named_parameters():  # fresh norms are the identity and would hide a missing one
            if "norm" in name:
                torch.nn.init.normal_(weights, 1.0, 0.3)
    path = folder / f"{family}-{style}-{seed}-{rate}-{len(more)}"
    model.save_pretrained(path)
    Wav2Vec2FeatureExtractor(
        sampling_rate=rate, do_normalize=True, return_attention_mask=style == "layer"
    ).save_pretrained(path)
    return str(path)


def waves(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [0.1 * torch.randn(n, generator=generator) + 0.02 for n in lengths]


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # WavLM's own, when given a mask
@pytest.mark.parametrize("family, style", CASES)
def test_frames_are_those_of_transformers_at_every_layer(folder, family, style):
    from transformers import AutoFeatureExtractor, AutoModel

    source = checkpoint(folder, family, style)
    extractor, theirs = AutoFeatureExtractor.from_pretrained(source), AutoModel.from_pretrained(source).eval()
    wave = waves(7777)[0]
    inputs = extractor(wave.numpy(), sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        expected = theirs(**inputs, output_hidden_states=True)
    assert len(expected.hidden_states) == DEPTH + 1
    wanted = [*expected.hidden_states[1:DEPTH], expected.last_hidden_state]  # the last layer's with the norm after it
    for layer, hidden in [*enumerate(wanted, 1), (None, wanted[-1])]:
        frames, _ = load_encoder(source, layer)(wave, cumulative([len(wave)]))
        torch.testing.assert_close(frames, hidden[0], rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")
@pytest.mark.parametrize("family, style", CASES)
def test_a_mean_is_over_what_the_layers_themselves_put_out(folder, family, style):
    from transformers import AutoFeatureExtractor, AutoModel

    source = checkpoint(folder, family, style)
    extractor, theirs = AutoFeatureExtractor.from_pretrained(source), AutoModel.from_pretrained(source).eval()
    outputs = []
    for layer in theirs.encoder.layers:
        layer.register_forward_hook(lambda _, given, put: outputs.append(put[0] if isinstance(put, tuple) else put))
    wave = waves(7777)[0]
    with torch.no_grad():
        theirs(**extractor(wave.numpy(), sampling_rate=16_000, return_tensors="pt"))
    for layer, first in (("mean", 0), ("mean:2-3", 1)):
        encoder = load_encoder(source, layer)
        for packed in {False, encoder.packs}:
            encoder.packed = packed
            frames, _ = encoder(wave, cumulative([len(wave)]))
            wanted = torch.stack(outputs[first:]).mean(0)[0]
            torch.testing.assert_close(frames, wanted, rtol=1e-4, atol=1e-5)
            assert encoder.layer == f"mean:{first + 1}-3" and load_encoder(source, encoder.layer).layer == encoder.layer
    assert len(load_encoder(source, "mean:1-2").model.encoder.layers) == 2  # the third is not computed
    assert load_encoder(source, "3").fingerprint() == load_encoder(source).fingerprint()


@pytest.mark.parametrize("family, style", CASES)
def test_out_len_and_neighbours(folder, family, style):
    encoder = load_encoder(checkpoint(folder, family, style))
    given = waves(*LENGTHS)
    packed, frame_cu = encoder(torch.cat(given), cumulative(LENGTHS))
    alone = [encoder(wave, cumulative([len(wave)]))[0] for wave in given]
    counts = [len(frames) for frames in alone]
    assert torch.equal(packed, torch.cat(alone)) and frame_cu.diff().tolist() == counts
    assert [encoder.out_len(n) for n in LENGTHS] == counts and all(isinstance(encoder.out_len(n), int) for n in LENGTHS)
    assert encoder.out_len(np.array(LENGTHS, np.int64)).tolist() == counts
    assert encoder.out_len(torch.tensor(LENGTHS)).tolist() == counts
    assert counts[0] == 1 and max(encoder.out_len(n) for n in range(400)) < 1
    assert packed.shape[1] == encoder.dim == SIZES["hidden_size"]
    assert not packed.requires_grad and not encoder.training and not any(p.requires_grad for p in encoder.parameters())


@pytest.mark.parametrize("layer", [None, 2])
@pytest.mark.parametrize("family, style", CASES)
def test_packed_frames_are_those_of_one_by_one(folder, family, style, layer):
    encoder = load_encoder(checkpoint(folder, family, style), layer)
    given = waves(*LENGTHS)
    expected, expected_cu = encoder(torch.cat(given), cumulative(LENGTHS))
    assert not encoder.packed and encoder.packs == (family != "wavlm")
    if encoder.packs:
        encoder.packed, seen = True, []
        with encoder.model.encoder.layers[0].register_forward_pre_hook(lambda _, named: seen.append(named[0].shape)):
            packed, frame_cu = encoder(torch.cat(given), cumulative(LENGTHS))
        assert seen == [(1, len(expected), SIZES["hidden_size"])]  # the transformer ran once, on what is no padding
        torch.testing.assert_close(packed, expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(frame_cu, expected_cu)


def test_the_random_numbers_of_others_are_left_alone(folder):
    encoder = load_encoder(checkpoint(folder, "hubert"))
    for encoder.packed in (False, True):
        torch.manual_seed(7)
        encoder(waves(4000)[0], cumulative([4000]))
        drawn = torch.rand(1)
        torch.manual_seed(7)
        assert torch.equal(torch.rand(1), drawn)


def test_the_fingerprint_follows_what_decides_the_frames_and_not_the_path(folder, tmp_path):
    source = checkpoint(folder, "hubert")
    first = load_encoder(source).fingerprint()
    assert load_encoder(str(Path(source).rename(tmp_path / "moved"))).fingerprint() == first
    source = str(tmp_path / "moved")
    others = {
        "weights": load_encoder(checkpoint(folder, "hubert", seed=1)).fingerprint(),
        "layer": load_encoder(source, layer=2).fingerprint(),
        "dtype": load_encoder(source, dtype="bfloat16").fingerprint(),
    }
    for name, other in others.items():
        assert {key for key in first if first[key] != other[key]} == {name}


def without(source: str, *names: str) -> None:
    from safetensors.torch import load_file, save_file

    file = Path(source) / "model.safetensors"
    weights = load_file(file)
    for name in names:
        del weights[name]
    save_file(weights, file, {"format": "pt"})


def test_only_the_weight_that_inference_never_reads_may_be_missing(tmp_path):
    source = checkpoint(tmp_path, "wav2vec2")
    without(source, "masked_spec_embed")  # as in facebook/wav2vec2-base-960h
    assert load_encoder(source).fingerprint() == load_encoder(source).fingerprint()
    without(source, "encoder.layers.1.final_layer_norm.weight")
    with pytest.raises(UserError, match=r"lacks weights .* encoder.layers.1.final_layer_norm.weight"):
        load_encoder(source)


def test_a_wrong_encoder_is_refused_in_one_line(tmp_path, folder):
    from transformers import LlamaConfig

    LlamaConfig().save_pretrained(tmp_path / "llama")
    (tmp_path / "empty").mkdir()
    good = checkpoint(folder, "hubert", seed=2)
    cases = [
        ("llama' is an LLM .*'llama'.*hubert, wav2vec2, wavlm.*model.encoder.*--encoder", (str(tmp_path / "llama"),)),
        ("there is no such folder", (str(tmp_path / "nowhere"),)),
        ("hf download nobody/nothing", ("nobody/nothing",)),
        ("the folder needs config.json", (str(tmp_path / "empty"),)),
        ("layer 4 does not exist; this encoder has layers 1 to 3", (good, 4)),
        ("layer 0 does not exist", (good, 0)),
        ("layer mean:2-4 does not exist", (good, "mean:2-4")),
        ("layer mean:2-2 is the mean of one; write 2", (good, "mean:2-2")),
        ("layer 'means' is of no known form; give a number, mean, or", (good, "means")),
        ("unknown dtype 'float8'; known: auto, float32", (good, None, "float8")),
        ("audio at 8000 Hz", (checkpoint(folder, "hubert", rate=8000),)),
        ("add_adapter", (checkpoint(folder, "wav2vec2", add_adapter=True),)),
    ]
    for message, arguments in cases:
        with pytest.raises(UserError, match=message) as caught:
            load_encoder(*arguments)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("convolution", "channels"),
    [
        (nn.Conv1d(32, 32, 3, groups=2), None),
        (nn.Conv1d(8, 8, 3), None),  # one group, however narrow
        (nn.Conv1d(32, 32, 3, groups=4), 8),
        (nn.Conv1d(64, 16, 3, groups=2), 8),  # of what goes out
        (nn.Conv2d(16, 64, 3, groups=2), 8),  # of what comes in
        (nn.Conv1d(64, 64, 3, groups=64), 1),  # depthwise
    ],
)
def test_a_convolution_counts_by_the_fewest_channels_of_a_group(convolution, channels):
    model = nn.Sequential(nn.Linear(2, 2), convolution)
    assert narrow_groups(model) == (channels and ("1", channels))
    for asked, device, dtype in (
        ("bfloat16", "cpu", torch.float32 if channels else torch.bfloat16),
        ("bfloat16", "cuda", torch.bfloat16),
        ("float16", "cpu", torch.float16),
        ("auto", "cpu", torch.float32),
    ):
        computed, note = encoder_dtype(model, asked, device)
        assert computed == dtype and bool(note) == (asked == "bfloat16" and dtype == torch.float32)


def test_a_narrow_encoder_says_what_it_is_computed_in_and_its_fingerprint_too(tmp_path):
    narrow = checkpoint(tmp_path, "hubert", num_conv_pos_embedding_groups=4)
    wide = checkpoint(tmp_path, "hubert")
    encoder = load_encoder(narrow, dtype="bfloat16")
    assert {p.dtype for p in encoder.parameters()} == {torch.float32} and "8 channels a group" in encoder.dtype_note
    assert encoder.fingerprint() == load_encoder(narrow, dtype="float32").fingerprint()
    assert load_encoder(narrow).dtype_note == load_encoder(wide, dtype="bfloat16").dtype_note == ""
    made = encoder.fingerprint()
    known = {
        (source, asked, device): known_fingerprint(source, None, asked, made, device)["dtype"]
        for source in (narrow, wide)
        for asked in ("auto", "bfloat16")
        for device in ("cpu", "cuda")
    }
    assert {key for key, dtype in known.items() if dtype == "bfloat16"} == {
        (wide, "bfloat16", "cpu"),
        (wide, "bfloat16", "cuda"),
        (narrow, "bfloat16", "cuda"),
    }
    assert known_fingerprint(narrow, None, "bfloat16", made, "cpu") == made


def test_our_own_encoders_may_be_computed_in_bfloat16_on_any_cpu(tmp_path):
    from transformers import AutoConfig, AutoModel

    folders = [Path(__file__).parents[2] / "model" / "stand_in" / "encoder", tiny_models(tmp_path)[0]]
    ours = [AutoConfig.from_pretrained(folder) for folder in folders] + [configs(toy)[0] for toy in TOYS.values()]
    for config in ours:
        with torch.device("meta"):
            assert narrow_groups(AutoModel.from_config(config)) is None, json.dumps(config.to_diff_dict(), default=str)
