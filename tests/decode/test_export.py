"""An export is a whole, checked copy, or it is not there."""

import os
from dataclasses import replace

import pytest
import torch

from decode.export import export
from model.errors import UserError
from model.weights import read_adapter


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_copy_is_the_same_two_files(tiny, tmp_path):
    card = export(tiny.adapter, tmp_path / "new" / "out")
    assert card.step == 7
    assert names(tmp_path / "new") == ["out"]
    assert names(tmp_path / "new" / "out") == ["adapter.json", "adapter.safetensors"]
    (copied, weights), (_, own) = read_adapter(tmp_path / "new" / "out"), read_adapter(tiny.adapter)
    assert all(torch.equal(weights[name], own[name]) for name in own)
    assert replace(copied, encoder_path=card.encoder_path, llm_path=card.llm_path) == card
    assert (tmp_path / "new" / "out" / copied.encoder_path).samefile(card.encoder_source)
    assert (tmp_path / "new" / "out").stat().st_mode & 0o777 == 0o755


def test_a_runs_newest_checkpoint_is_taken(tiny, tmp_path):
    export(tiny.adapter, tmp_path / "run" / "checkpoints" / "step-0000007")
    (tmp_path / "run" / "checkpoints" / "step-0000007" / "optimizer.safetensors").write_bytes(b"not for sharing")
    export(tmp_path / "run", tmp_path / "out")
    assert names(tmp_path / "out") == ["adapter.json", "adapter.safetensors"]


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
