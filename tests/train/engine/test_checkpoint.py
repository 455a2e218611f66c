import json
import os
import re

import pytest
import torch

from model.adapters import AdapterSpec, build_adapter
from model.errors import UserError
from model.weights import AdapterCard, find_adapter, read_adapter
from train.engine import checkpoint as saving
from train.engine.checkpoint import (
    Checkpoint,
    State,
    find_newest,
    keep_newest,
    load_checkpoint,
    mark_best,
    save_checkpoint,
)

FILES = ["adapter.safetensors", "adapter.json", "optimizer.safetensors", "state.json", "MANIFEST.json"]


def checkpoint(step):
    spec = AdapterSpec("concat", 5, 8, 0.0, 4, 6)
    adapter = build_adapter(spec)
    moments = {f"exp_avg.{name}": torch.randn_like(weight) for name, weight in adapter.state_dict().items()}
    card = AdapterCard(spec, {"layer": 1}, "e", {"family": "llama"}, "l", "a <speech> b", step)
    return Checkpoint(
        card, adapter.state_dict(), moments, State(step, {"optim.lr": 0.1}, "data", "plan", 2, 1, 3, (1.0, 7), None)
    )


def test_what_is_saved_comes_back_and_is_an_export_as_it_stands(tmp_path):
    saved = checkpoint(7)
    folder = save_checkpoint(tmp_path, saved)
    loaded = load_checkpoint(folder)
    assert loaded.state == saved.state
    for before, after in ((saved.weights, loaded.weights), (saved.moments, loaded.moments)):
        assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    card, weights = read_adapter(find_adapter(folder))
    assert card.step == 7 and sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 10_000, "no frozen weights"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("fault", ["flip", "truncate", "remove"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, name, fault):
    older, newest = save_checkpoint(tmp_path, checkpoint(5)), save_checkpoint(tmp_path, checkpoint(10))
    data = bytearray((newest / name).read_bytes())
    if fault == "flip":
        data[len(data) // 2] ^= 1
    (newest / name).write_bytes(data[: len(data) // 2] if fault == "truncate" else data)
    if fault == "remove":
        (newest / name).unlink()
    found, faults = find_newest(tmp_path)
    assert found == older and len(faults) == 1 and "step-00000010 is damaged" in faults[0]


def test_if_no_checkpoint_is_whole_the_run_does_not_start_anew_by_itself(tmp_path):
    (save_checkpoint(tmp_path, checkpoint(5)) / "state.json").write_text("{}")
    with pytest.raises(UserError, match="no checkpoint in .* is whole: .*state.json has 2 bytes"):
        find_newest(tmp_path)


@pytest.mark.parametrize("call", ["write_synced", "save_adapter", "sync_folder", "_manifest"])
def test_ended_anywhere_in_a_save_the_checkpoint_before_is_the_newest(tmp_path, monkeypatch, call):
    older = save_checkpoint(tmp_path, checkpoint(5))
    pid = os.fork()
    if pid == 0:  # the child dies as by kill -9 at this point of the save
        monkeypatch.setattr(saving, call, lambda *args: os._exit(9))
        save_checkpoint(tmp_path, checkpoint(10))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert find_newest(tmp_path) == (older, [])
    save_checkpoint(tmp_path, checkpoint(10))
    saving.clear_leftovers(tmp_path)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-00000005", "step-00000010"]


def test_the_newest_are_kept_and_the_best_besides(tmp_path):
    folders = [save_checkpoint(tmp_path, checkpoint(step)) for step in (1, 2, 3, 4)]
    mark_best(tmp_path, 2)
    keep_newest(tmp_path, 1, step=4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "step-00000002", "step-00000004"]
    assert (tmp_path / "best").resolve() == folders[1]


def test_a_damaged_later_checkpoint_does_not_push_out_the_one_just_written(tmp_path):
    for step in (1, 2, 9):
        save_checkpoint(tmp_path, checkpoint(step))
    (tmp_path / "step-00000009" / "state.json").write_text("")
    keep_newest(tmp_path, 1, step=2)
    assert find_newest(tmp_path)[0] == tmp_path / "step-00000002"
    assert not (tmp_path / "step-00000001").exists()


def test_the_best_is_marked_only_if_it_is_there(tmp_path):
    save_checkpoint(tmp_path, checkpoint(1))
    mark_best(tmp_path, 1)
    mark_best(tmp_path, 2)
    assert (tmp_path / "best").readlink().name == "step-00000001"


def test_a_manifest_that_points_elsewhere_is_not_followed(tmp_path):
    older, newest = save_checkpoint(tmp_path, checkpoint(5)), save_checkpoint(tmp_path, checkpoint(10))
    (newest / "MANIFEST.json").write_text(json.dumps({"../../secret": {"bytes": 1, "sha256": ""}}))
    found, faults = find_newest(tmp_path)
    assert found == older and re.search("names '../../secret'", faults[0])
