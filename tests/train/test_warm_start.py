"""A run that begins with the weights of another (model.init_from): what it begins with, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import train.preflight
from decode.export.adapter import export
from model.errors import UserError
from model.lora import LoraSpec
from model.weights import AdapterCard, find_adapter, read_card
from tests import ranks
from tests.train.runs import refuse, run
from train.data.indexes import open_data
from train.preflight import preflight
from train.recipe.config import load_config
from train.warm_start import Source, require_fitting


@pytest.fixture(scope="module")
def first(ground, tmp_path_factory) -> Path:
    """A finished first stage, without LoRA, validated at its end."""
    folder = tmp_path_factory.mktemp("first") / "run"
    run(ground, folder, f"data.dev={ground / 'dev'}", "optim.max_steps=2", "run.seed=8")
    return folder


def test_a_second_stage_begins_where_the_first_ended_and_needs_it_no_more_afterwards(ground, first, tmp_path):
    export(first, tmp_path / "export")
    second = [f"data.dev={ground / 'dev'}", "eval.at_start=true", "optim.max_steps=2", "lora.rank=2"]
    second += [f"model.init_from={tmp_path / 'export'}"]
    said = run(ground, tmp_path / "run", *second, world=2, stage=3)
    assert "starting from the adapter of" in said and "of step 2; LoRA is newly initialised in q_proj, v_proj" in said
    losses, ended = ranks.losses(tmp_path / "run", "dev"), ranks.losses(first, "dev")[-1]
    assert losses[0] == pytest.approx(ended, rel=1e-6) and losses[-1] != losses[0]
    folders = find_adapter(first), tmp_path / "run/checkpoints/step-00000000"
    ended, begun = ((folder / "adapter.safetensors").read_bytes() for folder in folders)
    assert ended == begun
    recipe = json.loads((tmp_path / "run/checkpoints/step-00000002/state.json").read_text())["recipe"]
    assert recipe["model.init_from"] == read_card(first / "checkpoints/step-00000002").weights_sha256

    shutil.move(tmp_path / "export", tmp_path / "elsewhere")  # the run's own checkpoint is all that it needs
    run(ground, tmp_path / "run", *second, "optim.max_steps=3")
    moved = f"model.init_from={tmp_path / 'elsewhere'}"
    run(ground, tmp_path / "run", *second, "optim.max_steps=4", moved, stage=2)
    shutil.rmtree(tmp_path / "elsewhere")  # as a run that has gone on since: the same path, other weights
    export(first / "checkpoints" / "step-00000000", tmp_path / "elsewhere")
    run(ground, tmp_path / "run", *second, "optim.max_steps=5", moved)
    assert ranks.losses(tmp_path / "run", figure="step") == [1, 2, 3, 4, 5]
    other = f"model.init_from={first / 'checkpoints' / 'step-00000000'}"
    assert "started differently: model.init_from was" in refuse(ground, tmp_path / "run", *second, other)


def test_lora_in_more_layers_begins_with_the_sources_and_changes_nothing_at_first(ground, first, tmp_path):
    lora = ["optim.max_steps=1", "lora.rank=2", f"data.dev={ground / 'dev'}"]
    run(ground, tmp_path / "narrow", *lora, f"model.init_from={first}")
    wider = [*lora, "eval.at_start=true", "lora.targets=[all-linear]", f"model.init_from={tmp_path / 'narrow'}"]
    said = run(ground, tmp_path / "wide", *wider)
    assert "LoRA is newly initialised in " in said and "q_proj" not in said.partition("newly initialised in ")[2][:80]
    losses, ended = ranks.losses(tmp_path / "wide", "dev"), ranks.losses(tmp_path / "narrow", "dev")[-1]
    assert losses[0] == pytest.approx(ended, rel=1e-6)


def test_what_is_not_there_is_refused_before_a_model_is_loaded(ground, tmp_path):
    said = refuse(ground, tmp_path / "run", "model.init_from=/nowhere/run", "model.llm=/nowhere/llm")
    assert "model.init_from: no adapter in '/nowhere/run': there is no such folder" in said
    assert not (tmp_path / "run" / "checkpoints").exists()


SPEC = LoraSpec(4, 8.0, ("q_proj", "v_proj"), 0.0)


def source(card: AdapterCard) -> Source:
    return Source("", Path("runs/first"), card, {})


def test_an_adapter_of_other_shapes_or_with_lora_of_its_own_is_refused_whatever_is_allowed(first):
    card = read_card(find_adapter(first))
    cases = [
        (card, replace(card, spec=replace(card.spec, hidden=32)), "model.adapter.hidden was 64, is 32"),
        (card, replace(card, spec=replace(card.spec, llm_dim=96)), "the LLM's width was 48, is 96"),
        (replace(card, lora=SPEC), replace(card, lora=replace(SPEC, rank=8)), "lora.rank was 4, is 8"),
        (replace(card, lora=SPEC), replace(card, lora=replace(SPEC, targets=("q_proj",))), "lora.targets was"),
        (
            replace(card, lora=SPEC),
            card,
            r"has LoRA of rank 4.*set lora.rank=4, lora.alpha=8 and lora.targets=\[q_proj",
        ),
    ]
    for theirs, ours, message in cases:
        for allow_changes in (False, True):
            with pytest.raises(UserError, match=message) as caught:
                require_fitting(source(theirs), ours, allow_changes)
            assert "runs/first" in str(caught.value) and "\n" not in str(caught.value)


def test_other_models_and_another_prompt_are_refused_unless_changes_are_allowed(first):
    card = read_card(find_adapter(first))
    theirs = replace(card, lora=SPEC)
    ours = replace(theirs, encoder=card.encoder | {"weights": "00", "dtype": "float16"}, prompt="<speech>")
    ours = replace(ours, llm=card.llm | {"weights": "11"}, lora=replace(SPEC, alpha=9.0, dropout=0.5))
    ours = replace(ours, spec=replace(card.spec, dropout=0.7, output_rms=0.5))
    with pytest.raises(UserError, match=r"trained differently: .*--allow-changes to start from it all the same"):
        require_fitting(source(theirs), ours, False)
    begun, *changes = require_fitting(source(theirs), ours, True)
    assert begun == f"starting from the adapter and LoRA of runs/first, of step {card.step}"
    named = [change.removeprefix("changed since runs/first was trained: ").partition(" was ")[0] for change in changes]
    assert named == [
        "lora.alpha",
        "model.adapter.match_norm",
        "model.prompt",
        "the LLM's weights",
        "the encoder's weights",
    ]


def test_doctor_checks_source_and_lora_without_loading_weights(ground, first, tmp_path, monkeypatch):
    def said(*overrides: str) -> str:
        config = load_config(ground / "recipe.yaml", [f"run.dir={tmp_path / 'run'}", *overrides])
        error, _ = preflight(config, open_data(config), torch.device("cpu"), 1)
        return str(error)

    monkeypatch.setattr(train.preflight, "load_llm", None)
    monkeypatch.setattr(train.preflight, "load_encoder", None)
    assert said(f"model.init_from={first}", "lora.rank=4") == "None"
    assert "no adapter in '/nowhere'" in said("model.init_from=/nowhere")
    assert "model.adapter.stack was 5, is 4" in said(f"model.init_from={first}", "model.adapter.stack=4")
    assert "was trained differently: model.prompt was" in said(f"model.init_from={first}", "model.prompt=<speech> x")
    assert "lora.targets: q_prj is no linear layer of this LLM, did you mean q_proj?" in said(
        "lora.rank=4", "lora.targets=q_prj"
    )
