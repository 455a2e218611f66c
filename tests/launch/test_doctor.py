"""`slam-asr doctor` on one host and on two ranks, on what is whole and on what is broken."""

import os
import re
import shutil
import time

import pytest
import torch

from launch.command import main
from launch.doctor import gpus, host
from launch.doctor.host import FAIL, OK, WARN, CheckResult, failures, lines_of
from launch.doctor.rendezvous import check_ranks, clocks, differences
from tests import ranks
from tests.ranks import free_port
from tests.tiny import tiny_models
from tests.train.conftest import make_ground
from train.dist.launch_env import RankEnv


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return make_ground(tmp_path_factory.mktemp("ground"))


@pytest.fixture
def doctor(ground, tmp_path, monkeypatch, capsys):
    """Runs it on the recipe with overrides; its exit code and its table."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))

    def run(*arguments: str) -> tuple[int, str]:
        code = main(["doctor", str(ground / "recipe.yaml"), f"run.dir={tmp_path / 'run'}", *arguments])
        return code, capsys.readouterr().out

    return run


def test_where_all_is_well_each_check_says_what_it_saw_and_nothing_is_made(doctor, tmp_path):
    code, printed = doctor()
    assert code == 0 and printed.endswith("nothing would stop this training\n"), printed
    for check in ("models", "shards", "disk", "locks", "GPUs"):
        assert re.search(rf"^ok +{check} ", printed, re.MULTILINE), printed
    assert "data.train: 24 of 24 utterances read (" in printed and not (tmp_path / "run").exists()


def test_what_is_missing_is_named_with_what_to_do(doctor, ground, tmp_path):
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow" / "config.json").write_text("{}")
    code, printed = doctor("data.dev=/nowhere", f"model.llm={tmp_path / 'hollow'}", "model.encoder=some/encoder")
    assert code == 1 and printed.endswith("3 things would stop this training\n"), printed
    assert "no shard directory '/nowhere'" in printed and "hollow has no config.json or no weights" in printed
    assert "some/encoder" in printed and "`hf download some/encoder`" in printed


@pytest.fixture(scope="module")
def trained(ground, tmp_path_factory):
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    ranks.train([str(ground / "recipe.yaml"), f"run.dir={folder}", "optim.max_steps=2"], 1, folder.with_suffix(".log"))
    return folder


REFUSED = {
    "another recipe in run.dir": (["optim.lr=3e-4"], ["optim.lr", "0.0002", "0.0003", "--allow-changes"]),
    "other data in run.dir": (["data.max_train_samples=20"], ["data.max_train_samples", "20"]),
    "another LLM in run.dir": (["model.llm={other}/llm"], ["LLM's weights"]),
    "features of another encoder": (["data.train={ground}/features", "model.encoder={other}/encoder"], ["features"]),
    "features of another layer": (["data.train={ground}/features", "model.encoder_layer=1"], ["layer"]),
    "an utterance too short": (["data.min_seconds=0.8"], ["data.min_seconds", "0.8", "utt-"]),
    "too short for the stack": (["model.adapter.stack=60"], ["60", "utt-"]),
    "longer than a micro-batch": (["batch.tokens=30"], ["30", "batch.tokens"]),
    "speed of cached features": (["data.train={ground}/features", "augment.speed=[0.9,1.1]"], ["augment.speed"]),
    "a layer that is not there": (["model.encoder_layer=9"], ["9", "1 to 2"]),
    "an encoder of 8 kHz": (["model.encoder={other}/slow"], ["8000 Hz, not 16000 Hz"]),
    "few bits of nothing": (["model.llm={other}/gpt2", "model.llm_dtype=int8"], ["no linear layers to quantise"]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_training_refuses_the_doctor_says_in_the_same_words(what, doctor, ground, other, trained, tmp_path):
    if "run.dir" in what:
        shutil.copytree(trained, tmp_path / "run")
    given, named = REFUSED[what]
    overrides = [text.format(ground=ground, other=other) for text in given]
    code, printed = doctor(*overrides)
    assert code == 1 and all(part in printed for part in named), printed
    arguments = [str(ground / "recipe.yaml"), f"run.dir={tmp_path / 'run'}", *overrides]
    refused = ranks.train(arguments, 1, tmp_path / "log", expected=2)
    line = next(line for line in refused.splitlines() if line.startswith("train: "))
    assert line.removeprefix("train: ") in printed
    if "run.dir" in what and "other" not in what:
        assert doctor(*overrides, "--allow-changes")[0] == 0


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Models of the same shape as the ground's, with other weights; the encoder at 8 kHz (slow), and a GPT-2."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("other")
    encoder, llm = tiny_models(folder, seed=1)
    extractor = shutil.copytree(encoder, folder / "slow") / "preprocessor_config.json"
    extractor.write_text(extractor.read_text().replace("16000", "8000"))
    shutil.copytree(llm, folder / "gpt2", ignore=lambda *_: ["config.json", "model.safetensors"])
    config = GPT2Config(vocab_size=300, n_embd=48, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=1)
    GPT2LMHeadModel(config).save_pretrained(folder / "gpt2")
    return folder


def test_a_schedule_that_does_not_suit_the_data_is_a_warning_with_the_value_to_set(doctor):
    code, printed = doctor("optim.warmup_steps=600", "optim.max_steps=1000")
    assert code == 0
    assert re.search(r"^warn +training .*600 of 1,000 steps.*optim.warmup_steps=100", printed, re.MULTILINE)
    assert "warn" not in doctor("optim.warmup_steps=auto", "optim.max_steps=1000")[1]


def test_a_damaged_shard_is_found(doctor, ground, tmp_path):
    broken = tmp_path / "shards"
    broken.mkdir()
    for file in (ground / "shards").iterdir():
        data = bytearray(file.read_bytes())
        if file.suffix == ".tar":
            for place in range(1000, len(data), 2000):
                data[place] ^= 1
        (broken / file.name).write_bytes(data)
    code, printed = doctor(f"data.train={broken}")
    assert code == 1 and f"`slam-asr prep check {broken}` reads all of it" in printed


def test_a_lock_that_a_killed_compilation_left_is_found_and_one_in_use_is_not(doctor, tmp_path):
    lock = tmp_path / "extensions" / "py311_cpu" / "some_op" / "lock"
    lock.parent.mkdir(parents=True)
    with open(lock, "w"):
        os.utime(lock, (time.time() - 3600, time.time() - 3600))
        assert doctor()[0] == 0
    code, printed = doctor()
    assert code == 1 and f"{lock} is left from a build that was killed; rm {lock}" in printed


def test_a_full_disk_is_found(doctor, monkeypatch):
    monkeypatch.setattr(host, "free_bytes", lambda folder: 50_000_000)
    code, printed = doctor()
    assert code == 1 and "wanted (0.05 GB); make room, or give another run.dir" in printed


def test_ranks_that_are_unlike_are_told_apart_and_like_ones_measure_their_network(ground, tmp_path):
    for override, code in ((f"run.dir={tmp_path / 'run'}", 0), ("optim.lr=1", 1)):
        logs = [tmp_path / f"{code}-{rank}" for rank in (0, 1)]
        running = ranks.start_verb(["doctor", str(ground / "recipe.yaml")], 2, logs, own={1: [override]})
        for process in running:
            process.join(ranks.HANGS_AFTER)
        first, second = (log.read_text() for log in logs)
        assert running[0].exitcode == code and second == "", first + second
        assert "2 ranks on 1 host joined" in first and "all_reduce (gloo): " in first
        assert ("FAIL  recipe" in first) == bool(code) and "clocks" in first


def test_a_missing_rank_is_named_and_so_is_a_rank_0_that_is_not_reached():
    port = str(free_port())
    own = [CheckResult("disk", OK, "room")]
    results = check_ranks(RankEnv(0, 3, 0, 3, "hand", "127.0.0.1", port), torch.device("cpu"), own, {}, seconds=1)
    assert [result.what for result in results if result.level == FAIL] == ["ranks 1, 2 of 3 did not join in 1 s"]
    assert own[0] in results
    results = check_ranks(RankEnv(1, 3, 1, 3, "hand", "127.0.0.1", port), torch.device("cpu"), own, {}, seconds=1)
    assert f"rank 1 does not reach rank 0 at 127.0.0.1:{port}" in results[0].what and results[0].level == FAIL


def test_what_nvidia_smi_says_is_judged():
    well = "0, NVIDIA H100, 0, 41, 3\n1, NVIDIA H100, [N/A], 44, 3\n"
    assert [result.level for result in gpus.health(well)] == [OK]
    ill = "0, NVIDIA H100, 2, 41, 3\n1, NVIDIA H100, 0, 91, 40000\n"
    assert [(result.level, result.what.split(" (")[0]) for result in gpus.health(ill)] == [
        (FAIL, "GPU 0"),
        (WARN, "GPU 1 is at 91 °C"),
        (WARN, "GPU 1 holds 40000 MiB already"),
    ]
    assert next(iter(gpus.health("hangs"))).level == FAIL


def test_the_speed_of_a_rank_is_measured_and_the_one_that_is_behind_is_named():
    measured = gpus.gpu_speed(torch.device("cpu"), 128)
    assert measured.level == OK and measured.figure
    ranks = [CheckResult(gpus.SPEED, OK, "product", "", f"gpu{n}", 700.0 - 300 * (n == 2), "TFLOP/s") for n in range(4)]
    assert [result.where for result in gpus.slow_gpus(ranks)] == ["gpu2"]


def test_clocks_that_are_off_are_named_by_host():
    hosts = {0: "a", 1: "a", 2: "b"}
    assert [result.level for result in clocks({1: 0.01, 2: 0.2}, hosts)] == [OK]
    late = clocks({1: 0.01, 2: -7.0}, hosts)
    assert [(result.where, result.what) for result in late] == [("b", "-7.0 s from rank 0's")]


def test_only_what_both_ranks_looked_at_is_compared():
    facts = {
        0: ("a", {"torch": "2.11", "LLM": "x"}),
        1: ("a", {"torch": "2.11"}),
        2: ("b", {"torch": "2.12", "LLM": "y"}),
    }
    assert sorted((result.check, result.where) for result in differences(facts)) == [("LLM", "b"), ("torch", "b")]


def test_the_table_merges_what_is_the_same_on_many_hosts():
    results = [CheckResult("disk", OK, "room", "", f"gpu{n:03}", 10.0 + n, "GB") for n in range(64)]
    results.append(CheckResult("ssh", FAIL, "no answer", "see why", "gpu001"))
    lines = lines_of(results)
    assert lines[0] == "ok    disk  gpu000, gpu001 and 62 more  room (10 to 73 GB)"
    assert lines[1].startswith("FAIL  ssh") and lines[1].endswith("no answer; see why") and failures(results) == 1
