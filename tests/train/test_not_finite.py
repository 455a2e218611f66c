"""Steps that are not finite: skipped on all ranks, counted, named; three in a row end the run."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

from data_prep.features import encoding as feature_encoding
from data_prep.features.build import build_features
from data_prep.shards.opening import read_index
from model.encoders import load_encoder
from tests import ranks
from tests.train.runs import refuse, run

BROKEN = "utt-005"


@pytest.fixture(scope="module")
def broken(ground, tmp_path_factory):
    """Cached features in which one utterance is not a number."""
    folder = tmp_path_factory.mktemp("broken") / "features"
    to_bytes = feature_encoding.to_bytes

    def poisoned(frames, dtype, key):
        return (
            to_bytes(frames, dtype, key)
            if key != BROKEN
            else torch.full_like(frames, torch.nan).half().view(torch.uint8).numpy().tobytes()
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_encoding, "to_bytes", poisoned)
        build_features(read_index(ground / "shards"), load_encoder(str(ground / "encoder")), folder)
    return folder


@pytest.mark.parametrize("world, stage", [(2, 0), (2, 2), (2, 3)])  # ZeRO-1 uses the code of ZeRO-2
def test_a_step_that_is_not_finite_is_skipped_on_all_ranks_and_its_utterances_are_named(
    ground, broken, tmp_path, world, stage
):
    folder = tmp_path / "run"
    given = f"data.train={broken}", "save.every_steps=1", "optim.max_steps=4"
    text = run(ground, folder, *given, world=world, stage=stage)
    skipped = [json.loads(line) for line in (folder / "skipped.jsonl").read_text().splitlines()]
    step = skipped[0]["step"]
    assert skipped and all(BROKEN in line["keys"] for line in skipped)
    assert re.search(f"step {step} is skipped: its loss is nan", text)
    before, after, last = (
        load_file(folder / "checkpoints" / f"step-{number:08d}" / "adapter.safetensors")
        for number in (step - 1, step, 4)
    )
    assert all(torch.equal(before[name], after[name]) and last[name].isfinite().all() for name in after)
    state = json.loads((folder / "checkpoints" / "step-00000004" / "state.json").read_text())
    assert state["skipped"] == len(skipped) < 4
    assert [loss is None for loss in ranks.losses(folder)] == [
        number in {line["step"] for line in skipped} for number in range(1, 5)
    ]


def test_a_skipped_step_is_the_same_after_a_resume(ground, broken, tmp_path):
    """AdamW counts its updates, not the steps: its bias correction would differ."""
    for name, stops in (("whole", [6]), ("parts", [2, 3, 6])):
        for steps in stops:
            run(ground, tmp_path / name, f"data.train={broken}", f"optim.max_steps={steps}")
    whole, parts = (tmp_path / name / "checkpoints" / "step-00000006" for name in ("whole", "parts"))
    assert (whole / "optimizer.safetensors").read_bytes() == (parts / "optimizer.safetensors").read_bytes()
    assert (whole / "adapter.safetensors").read_bytes() == (parts / "adapter.safetensors").read_bytes()


def test_three_in_a_row_end_the_run_with_advice(ground, tmp_path):
    text = refuse(ground, tmp_path / "run", "optim.lr=1e30", "optim.warmup_steps=0", world=2)
    assert re.search(r"train: 3 steps in a row are not finite, .*step \d .*lower optim.lr", text)
    assert len((tmp_path / "run" / "skipped.jsonl").read_text().splitlines()) == 3


def test_float16_begins_with_a_scale_that_overflows_and_finds_one_that_does_not(ground, tmp_path):
    given = "optim.lr=1e-9", "optim.max_steps=12"  # the adapter stays as it is
    run(ground, tmp_path / "half", *given, "model.dtype=float16", world=2)
    run(ground, tmp_path / "full", *given)
    both = list(zip(ranks.losses(tmp_path / "half"), ranks.losses(tmp_path / "full"), strict=True))
    assert both[0][0] is None, "the first scale overflows"
    found = [pair for pair in both if pair[0] is not None]
    assert len(found) >= 4 and all(half == pytest.approx(full, rel=5e-3) for half, full in found)
    norms = zip(*(ranks.losses(tmp_path / name, figure="grad_norm") for name in ("half", "full")), strict=True)
    assert all(half == pytest.approx(full, rel=5e-2) for half, full in norms if half is not None)
    state = json.loads((tmp_path / "half" / "checkpoints" / "step-00000012" / "state.json").read_text())
    scale, steady = state["loss_scale"]
    assert scale == 2.0 ** (16 - state["skipped"]) and 1 <= steady <= len(found)
