"""The GPU bench without a GPU: its checks at toy size, and that none of them can stop the others."""

import multiprocessing
import os
import re
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.gpu_checks import CHECKS
from bench.gpu_first import run_checks
from bench.gpu_lab import Check, CheckFailedError, Lab
from bench.gpu_parts import make_pair
from bench.gpu_train import Record
from bench.toys import TOYS
from launch.plan.shapes import random_recogniser, shapes_of
from model.encoders import HubertEncoder
from tests import ranks
from tests.test_house import OWNERS
from train.recipe.models import ModelConfig

ROOT = Path(__file__).parents[2]
GPU_SH = ROOT / "bench" / "gpu.sh"


def test_every_check_passes_at_toy_size_and_is_reported_as_it_ends(tmp_path):
    command = [sys.executable, "-m", "bench.gpu_first", "--toy", "--minutes", "60", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^(ok|FAILED) +(\w+) ", done.stdout, re.MULTILINE) == [("ok", check.name) for check in CHECKS]
    assert f"{len(CHECKS)} of {len(CHECKS)} checks passed, 0 failed" in done.stdout and "NOT EQUAL" not in done.stdout
    assert (tmp_path / "gpu_first.txt").read_text() == done.stdout


def passes(lab: Lab) -> None:
    lab.say("as it should be")


def fails(lab: Lab) -> None:
    raise CheckFailedError("off by 3")


def breaks(lab: Lab) -> None:
    raise ArithmeticError("two and two")


def hangs(lab: Lab) -> None:
    time.sleep(10_000)


def dies(lab: Lab) -> None:
    os._exit(7)


def test_a_check_that_fails_breaks_hangs_or_dies_is_named_and_stops_no_other(tmp_path, capsys, monkeypatch):
    """Processes are forked from a server that has imported torch: spawned ones, as above, need seconds to import it."""
    forked = ranks.fork_server()
    monkeypatch.setattr(multiprocessing, "get_context", lambda way: forked)
    checks = [Check(work.__name__, work, 600.0) for work in (fails, breaks, dies, passes)]
    checks.insert(1, Check("hangs", hangs, 0.2))
    with closing(Record(tmp_path, 60.0, "gpu_first.txt")) as record:
        verdicts = run_checks(checks, False, record)
    assert list(verdicts) == ["fails", "hangs", "breaks", "dies", "passes"]
    assert verdicts["fails"] == "off by 3" and verdicts["hangs"] == "it did not end in 0.2 s"
    assert verdicts["breaks"] == "ArithmeticError: two and two" and verdicts["dies"] == "its process ended with 7"
    assert verdicts["passes"] == ""
    said = capsys.readouterr().out
    assert re.search(r"line \d+, in breaks\n", said) and "ok      passes" in said
    with closing(Record(tmp_path, 0.0, "late.txt")) as record:
        assert run_checks(checks, False, record) == {}
    assert (tmp_path / "late.txt").read_text().count("left out, the time is up") == 5


@pytest.mark.parametrize("call", ["first", "table"])
def test_the_gpu_script_says_in_one_line_that_there_is_no_gpu(tmp_path, call):
    done = gpu_sh(tmp_path, call)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("no GPU here") and done.stdout.count("\n") == 1


def test_the_gpu_script_names_its_calls(tmp_path):
    for arguments, said in (([], "say first, table or wheels"), (["tables"], "not tables")):
        done = gpu_sh(tmp_path, *arguments)
        assert done.returncode == 2 and said in done.stderr and done.stdout == ""


def test_the_gpu_script_carries_the_packages_that_we_import_and_torch_does_not_bring():
    carried = re.search(r"^packages=\(([^)]*)\)", GPU_SH.read_text(), re.MULTILINE)
    assert carried and OWNERS.keys() - {"torchaudio"} <= set(carried[1].split())


def gpu_sh(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """bench/gpu.sh where nvidia-smi finds no GPU."""
    (folder / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    (folder / "nvidia-smi").chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.run([GPU_SH, *arguments], env=environment, capture_output=True, text=True, timeout=300)


def test_the_models_that_are_measured_lie_whole_on_their_device():
    """On the device of tensors without storage: transformers makes one weight, masked_spec_embed, on the CPU."""
    from bench.toys import configs

    encoder, llm = configs(TOYS["tiny"])
    shapes, device = shapes_of(encoder, llm, ModelConfig(encoder="-", llm="-")), torch.device("meta")
    for model in (random_recogniser(shapes, device, 20), make_pair(TOYS["tiny"], device, torch.bfloat16)):
        assert {weight.device for weight in model.parameters()} == {device}


def test_an_encoder_packs_where_its_transformer_is_on_a_gpu():
    """Pretended: tensors without storage say that they are on a GPU. transformers makes the first weight on the CPU."""
    from transformers import HubertModel, Wav2Vec2FeatureExtractor

    from bench.toys import configs

    with FakeTensorMode(), torch.device("cuda"):
        model = HubertModel(configs(TOYS["tiny"])[0])
        assert model.device.type == "cpu"
        assert HubertEncoder(model, Wav2Vec2FeatureExtractor(), None, "").packed
