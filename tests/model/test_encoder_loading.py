"""How encoders are loaded: whole, the encoder alone, in a dtype that the CPU computes; and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from bench.toys import TOYS, configs
from model.encoders import encoder_dtype, known_fingerprint, load_encoder, narrow_groups
from model.errors import UserError
from tests.tiny import tiny_models
from tests.tiny_encoders import tiny_encoder


@pytest.mark.parametrize("family", ["whisper", "moonshine", "voxtral"])
def test_only_the_encoder_of_a_larger_model_is_loaded(tmp_path, family, capfd):
    import transformers as hf

    source = tiny_encoder(tmp_path, family)
    encoder = load_encoder(source)
    assert not [name for name, _ in encoder.named_parameters() if "decoder" in name or "language" in name]
    assert "UNEXPECTED" not in capfd.readouterr().err
    whole = getattr(hf, f"{family.title()}ForConditionalGeneration").from_pretrained(source)
    alone = "model.audio_tower" if family == "voxtral" else "model.encoder"
    for number, part in enumerate(("model", alone)):  # published without its head; and the encoder alone
        whole.get_submodule(part).save_pretrained(tmp_path / str(number))
        hf.AutoFeatureExtractor.from_pretrained(source).save_pretrained(tmp_path / str(number))
        assert load_encoder(str(tmp_path / str(number))).fingerprint() == encoder.fingerprint()


def without(source: str, *names: str) -> None:
    from safetensors.torch import load_file, save_file

    file = Path(source) / "model.safetensors"
    weights = load_file(file)
    for name in names:
        del weights[name]
    save_file(weights, file, {"format": "pt"})


def test_only_the_weight_that_inference_never_reads_may_be_missing(tmp_path):
    source = tiny_encoder(tmp_path, "wav2vec2")
    without(source, "masked_spec_embed")  # as in facebook/wav2vec2-base-960h
    assert load_encoder(source).fingerprint() == load_encoder(source).fingerprint()
    without(source, "encoder.layers.1.final_layer_norm.weight")
    with pytest.raises(UserError, match=r"lacks weights .* encoder.layers.1.final_layer_norm.weight"):
        load_encoder(source)
    source = tiny_encoder(tmp_path, "whisper")
    fingerprint = load_encoder(source).fingerprint()
    without(source, "model.decoder.layer_norm.weight")
    assert load_encoder(source).fingerprint() == fingerprint
    without(source, "model.encoder.layer_norm.weight")
    with pytest.raises(UserError, match=r"lacks weights .* layer_norm.weight .*use a whole checkpoint"):
        load_encoder(source)


def test_a_wrong_encoder_is_refused_in_one_line(tmp_path):
    from transformers import LlamaConfig, SeamlessM4TConfig, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

    LlamaConfig().save_pretrained(tmp_path / "llama")
    (tmp_path / "empty").mkdir()
    SeamlessM4TConfig().save_pretrained(tmp_path / "seamless")
    good, whisper = tiny_encoder(tmp_path, "hubert", seed=2), tiny_encoder(tmp_path, "whisper", seed=2)
    mixed, other_bins = tiny_encoder(tmp_path, "whisper"), tiny_encoder(tmp_path, "whisper", seed=1)
    Wav2Vec2FeatureExtractor().save_pretrained(mixed)
    WhisperFeatureExtractor(feature_size=128, chunk_length=1).save_pretrained(other_bins)
    noisy = tiny_encoder(tmp_path, "whisper", seed=2)
    WhisperFeatureExtractor(chunk_length=1, dither=1e-4).save_pretrained(noisy)
    cases = [
        ("is a speech model .*'seamless_m4t'.*hubert.*a file in model/encoders", (str(tmp_path / "seamless"),)),
        ("llama' is an LLM .*'llama'.*hubert, wav2vec2, wavlm.*model.encoder.*--encoder", (str(tmp_path / "llama"),)),
        ("there is no such folder", (str(tmp_path / "nowhere"),)),
        ("hf download nobody/nothing", ("nobody/nothing",)),
        ("the folder needs config.json", (str(tmp_path / "empty"),)),
        ("layer 4 does not exist; this encoder has layers 1 to 3", (good, 4)),
        ("layer 0 does not exist", (good, 0)),
        ("layer mean:2-4 does not exist", (good, "mean:2-4")),
        ("layer mean:2-2 is the mean of one; write 2", (good, "mean:2-2")),
        ("layer weighted:2-2 is the weighted sum of one; write 2", (good, "weighted:2-2")),
        ("layer weighted:1-4 does not exist", (whisper, "weighted:1-4")),
        ("layer 'means' is not valid; give a number, mean, .* weighted", (good, "means")),
        (
            "family hubert encode audio of any length.*leave model.encoder_window",
            (good, None, "auto", "cpu", False, "cut"),
        ),
        ("window 'short' is not known; give padded or cut", (whisper, None, "auto", "cpu", False, "short")),
        ("preprocessor_config.json is of a Wav2Vec2FeatureExtractor, without n_fft", (mixed,)),
        ("gives 128 mel bins of 16,000 samples, its config.json expects 80 of 16,000", (other_bins,)),
        ("adds noise", (noisy,)),
        ("unknown dtype 'float8'; known: auto, float32", (good, None, "float8")),
        ("audio at 8000 Hz", (tiny_encoder(tmp_path, "hubert", rate=8000),)),
        ("audio at 24000 Hz", (tiny_encoder(tmp_path, "moonshine", rate=24_000),)),
        ("add_adapter", (tiny_encoder(tmp_path, "wav2vec2", add_adapter=True),)),
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
    narrow = tiny_encoder(tmp_path, "hubert", num_conv_pos_embedding_groups=4)
    wide = tiny_encoder(tmp_path, "hubert")
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
