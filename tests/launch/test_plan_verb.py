"""`slam-asr plan`: its predictions against what autograd keeps and what a process takes, and its advice."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.gpu_parts import audio_shards, feature_shards
from bench.lengths import librispeech_like
from launch.command import main
from model.encoders import load_encoder
from model.llm import load_llm
from model.llm.bits import weight_bytes
from tests.tiny import tiny_models, tiny_recogniser
from train.data.corpus import make_corpus
from train.recipe.config import load_config

ROOT = Path(__file__).parents[2]
STAND_IN = ROOT / "model" / "stand_in"
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
LLAMA_70B: dict[str, Any] = {
    **{"model_type": "llama", "vocab_size": 128_256},
    **dict(zip(SIZES, (8192, 80, 64, 8, 28_672), strict=True)),
}
MIDDLING: dict[str, Any] = {
    **{"model_type": "llama", "vocab_size": 8000},
    **dict(zip(SIZES, (512, 6, 8, 2, 1408), strict=True)),
}
WHOLE_PAGES = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""So that a freed tensor goes back to the system, and is not taken for one that is kept."""


def write_recipe(folder: Path, llm: Path, encoder: Path = STAND_IN / "encoder", **batch: Any) -> str:
    """Two thousand tokens a micro-batch and 8 of them, for data that are not there."""
    path = folder / "recipe.yaml"
    document = {
        "model": {
            "encoder": str(encoder),
            "llm": str(llm),
            "dtype": batch.pop("dtype", "bfloat16"),
            **batch.pop("model", {}),
        },
        "data": {"train": [str(folder / "none")]},
        "batch": {"tokens": 2000, "micro_batches": 8, **batch},
        "optim": {"epochs": 4},
        "run": {"dir": str(folder / "run")},
    }
    path.write_text(json.dumps(document))
    return str(path)


def write_config(folder: Path, config: dict[str, Any]) -> Path:
    """A model folder with config.json and nothing else."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def plan(capsys: pytest.CaptureFixture[str], recipe: str, *arguments: str, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["plan", recipe, *arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def row(document: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in document["rows"] if row["name"] == name)


def test_parameters_are_those_of_the_models_and_frozen_memory_is_their_bytes(tmp_path, capsys):
    encoder, llm = tiny_models(tmp_path)
    document = plan(capsys, write_recipe(tmp_path, llm, encoder), "--gpus", "2x24GB")
    real = {
        "encoder": sum(p.numel() for p in load_encoder(str(encoder)).parameters()),
        "llm": sum(p.numel() for p in load_llm(str(llm)).model.parameters()),
    }
    assert document["parameters"]["frozen"] == real
    assert row(document, "zero0")["memory"]["frozen"] == 2 * (real["encoder"] + real["llm"])
    assert row(document, "zero3")["memory"]["frozen"] == 2 * real["encoder"] + real["llm"]  # half of the LLM on each


def test_each_part_is_held_in_its_own_dtype_and_quantised_weights_are_not_sharded(tmp_path, capsys):
    encoder, llm = tiny_models(tmp_path)
    dtypes = ("model.encoder_dtype=float32", "model.llm_dtype=nf4")
    document = plan(capsys, write_recipe(tmp_path, llm, encoder), *dtypes, "--gpus", "2x24GB")
    heard = sum(p.nbytes for p in load_encoder(str(encoder)).parameters())
    read = weight_bytes(load_llm(str(llm)).model, "nf4", torch.bfloat16)
    assert row(document, "zero0")["memory"]["frozen"] == heard + read and row(document, "zero2")["fits"]
    assert (row(document, "zero3")["fits"], row(document, "zero3")["largest_tokens"]) == (False, 0)


def test_the_report_says_what_is_assumed_which_ranks_idle_and_what_to_type(tmp_path, capsys):
    recipe = write_recipe(tmp_path, STAND_IN / "llm", micro_batches=2)
    assert main(["plan", recipe, "--gpus", "4x80GB", "--nodes", "2", "optim.lr=2e-4"]) == 0
    text = capsys.readouterr().out
    assert "960.0 h, 12.3 s" in text and "is not there" in text and "GPUs of 80 GB are taken for a100" in text
    assert "6 of 8 ranks have nothing to do" in text and "batch.micro_batches=8" in text
    assert "an assumption, no measurement" in " ".join(text.split())
    tuned = "optim.lr=2e-4 batch.tokens=506 batch.micro_batches=8"  # 506: the longest utterance has to fit
    submit = f"  slam-asr submit {recipe} {tuned} --nodes 2 --gpus-per-node 4"
    assert f"{submit}\n  slam-asr launch hostfile HOSTFILE {recipe} {tuned}\n" in text


def test_with_shards_the_lengths_are_theirs_and_the_steps_those_of_the_plan(tmp_path, capsys):
    model, _ = tiny_recogniser(tmp_path)
    index = audio_shards(tmp_path / "shards", librispeech_like(40, 0))
    recipe = write_recipe(tmp_path, tmp_path / "llm", tmp_path / "encoder", micro_batches=2)
    document = plan(capsys, recipe, f"data.train={tmp_path / 'shards'}", "--gpus", "1x24GB")
    assert document["data"]["hours"] == pytest.approx(index.seconds / 3600)
    config = load_config(recipe)
    corpus = make_corpus(index, config.data, None, config.batch.tokens, model)
    assert document["data"]["tokens"] == corpus.tokens.sum() - len(index)  # the end of an answer is never fed in
    assert document["time"]["steps_per_epoch"] == corpus.epochs(config).num_steps(0)


def test_from_cached_frames_no_encoder_is_held(tmp_path, capsys):
    encoder, llm = tiny_models(tmp_path)
    feature_shards(tmp_path / "frames", librispeech_like(10, 0), load_encoder(str(encoder)))
    recipe = write_recipe(tmp_path, llm, encoder)
    cached = plan(capsys, recipe, f"data.train={tmp_path / 'frames'}", "--gpus", "1x24GB")
    assert row(cached, "zero0")["memory"]["frozen"] == 2 * cached["parameters"]["frozen"]["llm"]
    assert cached["data"]["cached"] and cached["time"]["run_cached"] < cached["time"]["run_on_the_fly"]
    fly = plan(capsys, recipe, "--gpus", "1x24GB", "--hours", "10")
    assert fly["data"]["hours"] == pytest.approx(10)
    cache, seconds = fly["cache"], fly["data"]["seconds"] / fly["advice"]["cached"]
    assert cache["read_float16"] == pytest.approx(cache["float16_bytes"] / seconds)
    frames = 50 * 36_000 * 32  # values: 50 frames of 32 a second
    assert fly["cache"]["float16_bytes"] == pytest.approx(2 * frames, rel=0.01)
    assert fly["cache"]["int8_bytes"] == pytest.approx(frames * 34 / 32, rel=0.01)


@pytest.mark.parametrize(
    ("gpus", "code", "advised"),
    [("8x80GB", 0, "zero3"), ("4x24GB", 0, "zero3_offload"), ("1x8GB", 1, None), ("8x640GB", 0, "zero0")],
)
def test_stage_3_is_advised_where_a_70b_llm_does_not_fit_and_the_offload_where_that_does_not(
    tmp_path, capsys, gpus, code, advised
):
    recipe = write_recipe(tmp_path, write_config(tmp_path / "llm", LLAMA_70B))
    document = plan(capsys, recipe, "--gpus", gpus, code=code)
    assert document["advice"]["deepspeed"] == advised
    assert document["parameters"]["frozen"]["llm"] == 70_553_706_496
    if advised:
        best, tokens = row(document, advised), document["advice"]["tokens"]
        assert document["least_tokens"] <= tokens <= best["largest_tokens"]
        assert document["advice"]["commands"][0].endswith(f"--deepspeed {advised}") or advised == "zero0"


def test_the_largest_batch_fits_and_a_larger_one_does_not(tmp_path, capsys):
    recipe = write_recipe(tmp_path, write_config(tmp_path / "llm", MIDDLING))
    largest = row(plan(capsys, recipe, "--gpus", "1x24GB"), "zero0")["largest_tokens"]
    for tokens, fits in ((largest, True), (largest + 100, False)):
        asked = plan(capsys, recipe, f"batch.tokens={tokens}", "--gpus", "1x24GB")
        assert row(asked, "zero0")["fits"] is fits


def test_gathering_over_the_network_bounds_the_speed_of_stage_3(tmp_path, capsys):
    recipe = write_recipe(tmp_path, write_config(tmp_path / "llm", LLAMA_70B))
    document = plan(capsys, recipe, "--gpus", "4xh100", "--nodes", "2")
    data, gathered = document["data"], row(document, "zero3")
    seconds = 2 * 2 * 70_553_706_496 * 7 / 8 / 45e9  # forward and backward, 2 bytes a weight, 45 GB/s
    audio = 8 * 2000 * data["seconds"] / data["cost"]  # seconds of it in eight micro-batches
    assert gathered["limit"] == "gathering" and gathered["on_the_fly"] == pytest.approx(audio / seconds)
    assert row(document, "zero0")["on_the_fly"] > gathered["on_the_fly"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--gpus", "80GBx8"], "did you mean 8x80GB?"),
        (["--gpus", "8x80"], "did you mean 8x80GB?"),
        (["--gpus", "4xh10"], "did you mean 4xh100?"),
        (["--gpus", "4xrtx409"], "did you mean 4xrtx4090?"),
        (["--gpus", "999x80GB"], "of one node, at most 256"),
        (["--gpus", "0x80GB"], "is not understood"),
        (["--gpus", "8x0GB"], "without memory"),
        (["--gpus", "8x80GB", "--nodes", "0"], "--nodes is 0, it must be at least 1"),
        (["--gpus", "8x80GB", "--gpu-type", "h10"], "--gpu-type 'h10' is not known, did you mean 'h100'?"),
        (["--gpus", "8x80GB", "--utilisation", "40"], "--utilisation is 40, it is a share"),
        (["--gpus", "8x80GB", "--hours", "0"], "--hours is 0"),
        ([], "--gpus is missing"),
        (["--probe", "model.llm_dtype=nf4"], "--probe measures LLMs in full weights"),
        (["--gpus", "8x80GB", "model.llm=no/such"], "give model.llm=FOLDER"),
        (["--gpus", "8x80GB", "model.encoder=model/stand_in/llm"], "is an LLM (model_type 'llama')"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, arguments, text):
    assert main(["plan", write_recipe(tmp_path, STAND_IN / "llm"), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and text in captured.err


def test_without_a_gpu_a_probe_says_the_hours_of_this_cpu(tmp_path):
    recipe = write_recipe(tmp_path, STAND_IN / "llm", tokens=400, micro_batches=2, dtype="auto")
    command = [sys.executable, "-m", "launch", "plan", recipe, "--probe", "--hours", "1"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300).stdout
    assert "audio, encoded on the fly" in said and " audio-h/h, " in said, said
    assert re.search(r"a run of [\d,]+ steps \(4 epochs\) takes (\d+:)?\d+:\d\d, without evaluation", said), said


def test_a_micro_batch_takes_at_least_as_long_as_its_kernels_take_to_be_launched(tmp_path, capsys):
    recipe = write_recipe(tmp_path, STAND_IN / "llm", micro_batches=1)
    small, large = (plan(capsys, recipe, f"batch.tokens={tokens}", "--gpus", "1x80GB") for tokens in (1000, 200_000))
    assert row(small, "zero0")["limit"] == "launching kernels"
    assert row(large, "zero0")["cached"] > 10 * row(small, "zero0")["cached"]
