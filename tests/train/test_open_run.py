"""What a person gets wrong: one line, exit code 2, and what was there before is untouched."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_prep.build.build import BuildOptions, build
from data_prep.shards.opening import read_index
from tests import ranks
from tests.train.conftest import speak
from tests.train.runs import command, refuse, run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def started(ground, tmp_path_factory):
    """A run of 4 steps, to be copied."""
    folder = tmp_path_factory.mktemp("started") / "run"
    run(ground, folder, "optim.max_steps=4")
    return folder


@pytest.mark.parametrize(
    "override, line",
    [
        ("optim.warmup_step=3", "warmup_step.*did you mean.*warmup_steps"),
        ("optim.lr=fast", "optim.lr.*fast"),
        ("data.train=/nowhere/shards", "no shard directory '/nowhere/shards'.*prep build"),
        ("model.encoder=/nowhere/hubert", "cannot load the encoder '/nowhere/hubert'"),
        ("data.max_seconds=1", "utterances are longer than data.max_seconds 1: utt-.*over_length: drop"),
        ("batch.tokens=40", "utterances are longer than the 40 tokens of a micro-batch"),
        ("data.max_characters=3", "of more than data.max_characters 3"),
        ("--deepspeed=/nowhere.json", "/nowhere.json"),
    ],
)
def test_a_mistake_in_the_recipe_is_one_line(ground, tmp_path, override, line):
    assert re.search(line, refuse(ground, tmp_path / "run", override))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_what_one_rank_alone_finds_that_rank_says(ground):
    environment = os.environ | {"RANK": "1", "LOCAL_RANK": "1"}
    command = [sys.executable, "-m", "train", str(ground / "recipe.yaml")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 2 and done.stderr.startswith("train: RANK is set but WORLD_SIZE is not")


def test_what_is_over_length_is_left_out_with_a_count_if_asked(ground, tmp_path):
    text = run(ground, tmp_path / "run", "data.max_seconds=1", "optim.max_steps=1", "data.over_length=drop")
    assert re.search(r"data.train: \d+ utterances left out, longer than data.max_seconds 1", text)


@pytest.mark.parametrize(
    "override, line",
    [
        ("optim.lr=1e-3", "optim.lr was 0.0002, is 0.001.*--allow-changes"),
        ("batch.micro_batches=2", "batch.micro_batches was 4, is 2.*--allow-changes"),
        ("model.adapter.hidden=32", "model.adapter.hidden was 64, is 32.*or another run.dir$"),
        ("model.adapter.type=swiglu", "model.adapter.type was concat, is swiglu.*or another run.dir$"),
        ("data.train={other}", "training data was .*, is .*--allow-changes"),
    ],
)
def test_a_run_that_was_started_differently_is_not_continued(ground, started, tmp_path, override, line):
    shutil.copytree(started, tmp_path / "run", symlinks=True)
    other = tmp_path / "other"
    build([speak(tmp_path, f"new-{i}", np.random.default_rng(i)) for i in range(3)], other, BuildOptions())
    before = {
        path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file() and path.name != "LOCK"
    }
    assert {path.name for path in before} >= {"FINISHED", "config.yaml", "metrics.jsonl"}
    said = refuse(ground, tmp_path / "run", override.format(other=other))
    assert re.search(f"started differently: {line}", said)
    assert all(path.read_bytes() == data for path, data in before.items())


def test_a_changed_run_goes_on_if_that_is_said(ground, started, tmp_path):
    shutil.copytree(started, tmp_path / "run", symlinks=True)
    text = run(ground, tmp_path / "run", "optim.lr=1e-3", "--allow-changes")
    assert "changed since the run was started: optim.lr was 0.0002, is 0.001" in text
    assert ranks.losses(tmp_path / "run", figure="lr")[4:] == pytest.approx([1e-3] * 4)


def test_weights_of_another_shape_cannot_be_carried_over_whatever_is_allowed(ground, started, tmp_path):
    shutil.copytree(started, tmp_path / "run", symlinks=True)
    changed = "model.adapter.hidden=128", "model.adapter.stack=4", "optim.lr=1e-3"
    said = refuse(ground, tmp_path / "run", *changed, "--allow-changes")
    assert "model.adapter.hidden was 64, is 128; model.adapter.stack was 5, is 4" in said and "{" not in said
    assert "another run.dir" in said


@pytest.mark.parametrize(
    "override, made, asked, remedies",
    [
        ("model.dtype=bfloat16", "float32", "bfloat16", ("model.encoder_dtype: float32", "--dtype bfloat16")),
        ("model.encoder_layer=1", "2", "1", ("model.encoder_layer: 2", "--layer 1")),
    ],
)
def test_features_of_another_precision_or_layer_name_both_and_the_setting(
    ground, tmp_path, override, made, asked, remedies
):
    said = refuse(ground, tmp_path / "run", f"data.train={ground / 'features'}", override)
    assert f" is {made}, the recipe's {asked};" in said and str(ground / "features") in said
    assert all(remedy in said for remedy in remedies)


@pytest.mark.parametrize("data", ["shards", "features"])
def test_utterances_too_short_for_one_speech_embedding_are_named_with_the_stack_that_takes_them(ground, tmp_path, data):
    index = read_index(ground / "shards")
    frames = (index.samples - 80) // 320
    arguments = [f"data.train={ground / data}", "model.adapter.stack=40"]
    said = refuse(ground, tmp_path / "run", *arguments)
    short = [i for i in range(len(index)) if frames[i] < 40]
    assert f"{len(short)} utterances are shorter than one speech embedding (40 encoder frames)" in said
    assert f"{index.key[short[0]]} ({index.samples[short[0]] / 16000:.3f} s)" in said
    assert f"model.adapter.stack to {frames.min()}," in said and "data.over_length: drop" in said
    text = run(ground, tmp_path / "run", *arguments, "data.over_length=drop", "optim.max_steps=1")
    assert f"{len(short)} utterances left out, shorter than one speech embedding" in text


def test_one_utterance_is_not_written_as_one_utterances(ground, tmp_path):
    longest = read_index(ground / "shards").samples.max() / 16000
    assert "train: 1 utterance is longer than" in refuse(
        ground, tmp_path / "run", f"data.max_seconds={longest - 0.001:.4f}"
    )
    said = run(ground, tmp_path / "run", "data.max_train_samples=1", "optim.max_steps=1")
    assert "training on 1 utterance, " in said


def test_features_of_another_encoder_are_refused_and_both_are_named(ground, tmp_path):
    shutil.copytree(ground / "features", tmp_path / "features")
    index = tmp_path / "features" / "index.json"
    document = json.loads(index.read_text())
    ours, document["fingerprint"]["weights"] = document["fingerprint"]["weights"], "0" * 64
    document["totals"]["encoder_files"] = "1" * 64
    index.write_text(json.dumps(document))
    said = refuse(ground, tmp_path / "run", f"data.train={tmp_path / 'features'}", world=2)
    assert "0" * 64 in said and ours in said and "prep features" in said


def test_shards_that_are_not_what_their_index_says_are_refused(ground, tmp_path):
    shutil.copytree(ground / "shards", tmp_path / "shards")
    shard = tmp_path / "shards" / "shard-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-1024])
    assert re.search(
        r"shard-000001.tar has [\d,]+ bytes, its index says [\d,]+; run \"slam-asr prep check",
        refuse(ground, tmp_path / "run", f"data.train={tmp_path / 'shards'}"),
    )


def test_a_second_run_in_the_same_folder_is_refused(ground, tmp_path):
    first = ranks.start(command(ground, tmp_path / "run"), 1, tmp_path / "log")
    holder = first.processes[0]
    while not (tmp_path / "run" / "LOCK").exists() or not (tmp_path / "run" / "LOCK").read_text():
        assert holder.is_alive()
    os.kill(holder.pid, signal.SIGSTOP)
    try:
        said = refuse(ground, tmp_path / "run")
        os.kill(holder.pid, signal.SIGCONT)
        assert f"in use by process {holder.pid} on {socket.gethostname()}; wait for it, or give another run.dir" in said
        assert first.wait() == [0]
    finally:
        holder.kill()


@pytest.mark.parametrize("count", [1, 3])
def test_fewer_utterances_than_a_step_has_places_are_enough(ground, tmp_path, count):
    run(ground, tmp_path / "run", f"data.max_train_samples={count}", "optim.max_steps=2", world=2)
    assert len(ranks.losses(tmp_path / "run")) == 2
