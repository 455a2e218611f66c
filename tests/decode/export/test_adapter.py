"""An export is a whole, checked copy, or it is not there."""

import hashlib
import json
import os
from dataclasses import replace

import pytest
import torch

from decode.export.adapter import export
from model.errors import UserError
from model.weights import read_adapter, read_card, save_adapter

FILES = ["README.md", "adapter.json", "adapter.safetensors"]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_copy_is_the_same_files(tiny, tmp_path):
    card = export(tiny.adapter, tmp_path / "new" / "out")
    assert card.step == 7
    assert names(tmp_path / "new") == ["out"]
    assert names(tmp_path / "new" / "out") == FILES
    (copied, weights), (_, own) = read_adapter(tmp_path / "new" / "out"), read_adapter(tiny.adapter)
    assert all(torch.equal(weights[name], own[name]) for name in own)
    assert replace(copied, encoder_path=card.encoder_path, llm_path=card.llm_path) == card
    assert (tmp_path / "new" / "out" / copied.encoder_path).samefile(card.encoder_source)
    assert (tmp_path / "new" / "out").stat().st_mode & 0o777 == 0o755


def test_float16_halves_the_files_and_is_read_as_float32(tiny, tmp_path):
    card = export(tiny.adapter, tmp_path / "half", "float16")
    assert export(tiny.adapter, tmp_path / "half", "float16") == card
    whole, half = ((folder / "adapter.safetensors").stat().st_size for folder in (tiny.adapter, tmp_path / "half"))
    assert half < 0.6 * whole
    (_, weights), (_, own) = read_adapter(tmp_path / "half"), read_adapter(tiny.adapter)
    assert all(torch.equal(weights[name], own[name].half().float()) for name in own)
    with pytest.raises(UserError, match="something else"):
        export(tiny.adapter, tmp_path / "half")
    with pytest.raises(UserError, match="'float61' is not known, did you mean 'float16'"):
        export(tiny.adapter, tmp_path / "out", "float61")
    save_adapter(tmp_path, own | {"linear2.bias": torch.full_like(own["linear2.bias"], 7e4)}, read_card(tiny.adapter))
    with pytest.raises(UserError, match=r"linear2.bias has weights up to 7e\+04, beyond float16; export it in float32"):
        export(tmp_path, tmp_path / "out", "float16")


def test_the_readme_states_recipe_data_and_the_wer_of_these_weights(tiny, tmp_path):
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000007"
    export(tiny.adapter, checkpoint)
    (checkpoint / "state.json").write_text(json.dumps({"recipe": {"optim.lr": 1e-3}, "data": "d1"}))
    card = export(tmp_path / "run", tmp_path / "out")
    recipe = hashlib.sha256(b'{"optim.lr": 0.001}').hexdigest()
    assert (card.recipe_sha256, card.data_sha256) == (recipe, "d1")
    text = (tmp_path / "out" / "README.md").read_text()
    for fact in (card.encoder_source, card.llm["weights"], recipe, "`d1`", card.weights_sha256, "<speech>"):
        assert fact in text
    assert "WER" not in text
    counts = {"substitutions": 2, "deletions": 1, "insertions": 0, "words": 12, "utterances": 3, "wer": 0.25}
    score = {"weights_sha256": card.digest, "shards_digest": "5e7", "beams": 1, "normaliser": "plain", "all": counts}
    (tmp_path / "score.json").write_text(json.dumps(score))
    for target in ("out", "new"):  # the first has the weights already
        export(tmp_path / "run", tmp_path / target, score=tmp_path)
        assert "25.0 %: 3 errors in 12 words of 3 utt" in (tmp_path / target / "README.md").read_text()
    export(tmp_path / "out", tmp_path / "half", "float16", tmp_path / "score.json")  # of the weights before rounding
    (tmp_path / "silence.json").write_text(json.dumps(score | {"all": counts | {"words": 0, "wer": None}}))
    export(tmp_path / "run", tmp_path / "out", score=tmp_path / "silence.json")
    assert "| WER | none: 3 errors in 0 words of 3 utterances;" in (tmp_path / "out" / "README.md").read_text()
    for wrong in ("{}", json.dumps(score | {"all": 3}), "no JSON"):
        (tmp_path / "wrong.json").write_text(wrong)
        with pytest.raises(UserError, match="is no score of an adapter"):
            export(tmp_path / "run", tmp_path / "other", score=tmp_path / "wrong.json")
    (tmp_path / "wrong.json").write_text(json.dumps(score | {"weights_sha256": "0" * 64}))
    with pytest.raises(UserError, match="is the score of other weights .*; score this adapter"):
        export(tmp_path / "run", tmp_path / "other", score=tmp_path / "wrong.json")
    with pytest.raises(UserError, match="cannot be read: No such file"):
        export(tmp_path / "run", tmp_path / "other", score=tmp_path / "nowhere")
    (checkpoint / "state.json").write_text("{}")
    with pytest.raises(UserError, match="state.json is damaged"):
        export(tmp_path / "run", tmp_path / "other")


def test_a_runs_newest_checkpoint_is_taken(tiny, tmp_path):
    export(tiny.adapter, tmp_path / "run" / "checkpoints" / "step-0000007")
    (tmp_path / "run" / "checkpoints" / "step-0000007" / "optimizer.safetensors").write_bytes(b"not for sharing")
    export(tmp_path / "run", tmp_path / "out")
    assert names(tmp_path / "out") == FILES


def test_the_same_export_twice_is_no_error_and_anything_else_there_is(tiny, tmp_path):
    export(tiny.adapter, tmp_path / "out")
    export(tiny.adapter, tmp_path / "out")
    (tmp_path / "out" / "adapter.json").write_text("{}")
    with pytest.raises(UserError, match="is there already and holds something else"):
        export(tiny.adapter, tmp_path / "out")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="name a new folder"):
        export(tiny.adapter, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_damaged_source_leaves_nothing(tiny, tmp_path):
    export(tiny.adapter, tmp_path / "damaged")
    weights = tmp_path / "damaged" / "adapter.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(UserError, match="does not match the sha256"):
        export(tmp_path / "damaged", tmp_path / "out")
    assert names(tmp_path) == ["damaged"]


def test_a_full_disk_is_one_line_and_leaves_nothing(tiny, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=f"{tmp_path}/out.*No space left on device.*make room"):
        export(tiny.adapter, tmp_path / "out")
    assert names(tmp_path) == []
