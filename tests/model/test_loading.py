"""Opening pretrained parts: what identifies weights, and that a checkpoint's own code never runs unasked."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from model.encoders import load_encoder
from model.errors import UserError
from model.llm import load_llm
from model.loading import choose_dtype, fingerprint
from tests.tiny import tiny_models


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2).bfloat16())


def test_one_value_of_any_stored_tensor_changes_the_fingerprint():
    seen = {fingerprint(small())}
    names = list(small().state_dict())
    assert "1.running_mean" in names
    for name in names:
        changed = small()
        changed.state_dict()[name].view(-1)[-1:].add_(1)
        seen.add(fingerprint(changed))
    renamed, cast = nn.Sequential(*small(), nn.Identity()), small().double()
    assert len(seen) == 1 + len(names)
    assert fingerprint(small()) == fingerprint(renamed) in seen and fingerprint(cast) not in seen
    assert fingerprint(nn.Sequential(small()[2], small()[1], small()[0])) not in seen


def test_the_same_weights_are_the_same_wherever_and_however_saved(tmp_path):
    from transformers import AutoModelForCausalLM

    folder = tiny_models(tmp_path)[1]
    llm = AutoModelForCausalLM.from_pretrained(folder)
    first = fingerprint(llm)
    llm.save_pretrained(tmp_path / "pieces", max_shard_size="50KB")
    assert len(list((tmp_path / "pieces").glob("*.safetensors"))) > 1
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "pieces")
    assert fingerprint(again) == fingerprint(again.train()) == first
    assert load_llm(str(folder), "bfloat16").fingerprint["weights"] == first


def test_auto_is_float32_where_bfloat16_is_slow():
    assert choose_dtype("auto", "cpu") == torch.float32 and choose_dtype("float16", "cpu") == torch.float16
    with pytest.raises(UserError, match="unknown dtype 'fp16'; known: auto, float32, bfloat16, float16"):
        choose_dtype("fp16", "cpu")


def plant(folder: Path, known_type: bool) -> Path:
    """Gives the checkpoint code of its own, in every file that can name some; returns what that code would write."""
    sentinel = folder / "ran"
    (folder / "planted.py").write_text(f"open({str(sentinel)!r}, 'w').close()\nraise SystemExit\n")
    classes = ("Config", "Model", "ModelForCausalLM", "FeatureExtractor")
    auto_map = {f"Auto{name}": f"planted.{name}" for name in classes}
    auto_map["AutoTokenizer"] = [None, "planted.Tokenizer"]  # type: ignore
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        if (folder / name).exists():
            stated = json.loads((folder / name).read_text()) | {"auto_map": auto_map}
            if name == "config.json" and not known_type:
                stated["model_type"] = "planted"
            (folder / name).write_text(json.dumps(stated))
    return sentinel


@pytest.mark.parametrize("known_type", [True, False])
def test_code_in_a_checkpoint_does_not_run_unasked(tmp_path, known_type):
    for folder, load in zip(tiny_models(tmp_path), (load_encoder, load_llm), strict=True):
        sentinel = plant(folder, known_type)
        if known_type:  # the library's own class is taken instead
            load(str(folder))
        else:
            with pytest.raises(UserError, match="set model.trust_remote_code: true only if you trust it") as caught:
                load(str(folder))
            assert "\n" not in str(caught.value)
        assert not sentinel.exists()
