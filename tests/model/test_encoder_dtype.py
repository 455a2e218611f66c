"""Which encoders a CPU computes in bfloat16: the choice, as only CPUs with AMX show what goes wrong."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from bench.toys import TOYS, configs
from model.encoders import known_fingerprint, load_encoder
from model.encoders.dtype import encoder_dtype, narrow_groups
from tests.model.test_encoders import checkpoint
from tests.tiny import tiny_models

STAND_IN = Path(__file__).parents[2] / "model" / "stand_in" / "encoder"


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
    folders = [STAND_IN, tiny_models(tmp_path)[0]]
    ours = [AutoConfig.from_pretrained(folder) for folder in folders] + [configs(toy)[0] for toy in TOYS.values()]
    for config in ours:
        with torch.device("meta"):
            assert narrow_groups(AutoModel.from_config(config)) is None, json.dumps(config.to_diff_dict(), default=str)
