"""The bench itself: its table and JSON, and that the GPU part runs at toy size and does no harm without a GPU."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.batching import bucket_batches, dynamic_batches, random_batches
from bench.files import FILES, measure_alone
from bench.flops import encoder_flops, llm_flops
from bench.goal import Goal
from bench.lengths import Lengths, librispeech_like
from bench.plan import sizes_of, useful_share
from bench.table import format_table, write_results
from bench.toys import TOYS, configs

ROOT = Path(__file__).parents[2]
GOALS = [
    Goal("1", "a step", 2.5, 2.0, "higher", "x", "2.4 to 2.6", "of another loop"),
    Goal("5", "planning", 0.2, 0.1, "lower", "CPU-ms", "0.2 to 0.3", "a micro-batch"),
]


def test_the_table_and_the_json_say_which_goals_are_met(tmp_path):
    lines = format_table(GOALS).splitlines()
    assert [line.split()[-1] for line in lines[1::2]] == ["yes", "NO"]
    assert "of another loop" in lines[2] and ">= 2" in lines[1] and "<= 0.1" in lines[3]
    write_results(tmp_path / "results.json", GOALS)
    document = json.loads((tmp_path / "results.json").read_text())
    assert [goal["met"] for goal in document["goals"]] == [True, False]
    assert document["goals"][0]["figure"] == 2.5 and document["machine"]["versions"]["torch"]


def test_a_file_is_measured_in_a_process_of_its_own_and_its_failure_comes_back():
    assert all((ROOT / "bench" / f"{file}.py").exists() for file in FILES)
    with pytest.raises(subprocess.CalledProcessError):
        measure_alone("no_such_file", 1.0, None)


def test_flops_are_those_of_the_published_models():
    """Against counts by hand, GFLOP a second of audio at 12.3 s: HuBERT-XL 108.0, TinyLlama 60.2 and head 1.0."""
    encoder, llm = configs(TOYS["TinyLlama"])
    assert encoder_flops(encoder, int(12.3 * 16_000)) / 12.3e9 == pytest.approx(108.0, rel=0.01)
    assert llm_flops(llm, 188, 45) / 12.3e9 == pytest.approx(61.2, rel=0.01)


def test_every_way_of_batching_keeps_to_its_budget_and_takes_nothing_twice():
    tokens = np.random.default_rng(0).integers(20, 400, size=2000)
    for batches in (dynamic_batches(tokens, 3000, 0), bucket_batches(tokens, 3000, 0, ranks=2)):
        assert max(len(batch) * tokens[batch].max() for batch in batches) <= 3000
        taken = np.concatenate(batches)
        assert len(set(taken.tolist())) == len(taken)
    assert sorted(np.concatenate(random_batches(tokens, 16, 0)).tolist()) == list(range(2000))


def test_the_useful_share_counts_padding_waiting_and_empty_slots():
    corpus = sizes_of(Lengths("two", np.array([5.0, 10.0]), np.array([70, 140])))
    cost = corpus.encoding + corpus.answering
    alone = [np.array([0]), np.array([1])]
    assert useful_share(corpus, alone, 2, padded=False, whole_only=False) == pytest.approx(cost.mean() / cost[1])
    assert useful_share(corpus, [np.array([0, 1])], 1, padded=True, whole_only=False) == pytest.approx(
        cost.sum() / (2 * cost[1])
    )
    assert useful_share(corpus, alone[1:], 2, padded=False, whole_only=False) == pytest.approx(0.5)


def test_the_formula_for_lengths_has_librispeechs_mean():
    assert librispeech_like(20_000, 0).seconds.mean() == pytest.approx(12.5, abs=0.1)


def test_the_gpu_bench_runs_at_toy_size_and_agrees_with_the_cpu(tmp_path):
    command = [sys.executable, "-m", "bench.gpu", "--toy", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    assert "NOT EQUAL" not in done.stdout and done.stdout.count(": equal") == 4
    rows = json.loads((tmp_path / "gpu.json").read_text())
    assert [(row["source"], row["budget"]) for row in rows] == [
        *(("audio", 600), ("audio", 1200)),
        *(("features", 600), ("features", 1200)),
    ]
    assert all(row["audio_seconds"] > 0 and row["flops"] > 0 for row in rows)
    assert [line.split()[3] for line in _planned_lines(done.stdout)] == [
        f"{row['planned_bytes'] / 2**30:.1f}" for row in rows
    ]
    small, large = (row["planned_bytes"] for row in rows[:2])
    assert 0 < small < large


def _planned_lines(printed: str) -> list[str]:
    """What plan predicted of each row of the toy, under its heading."""
    lines = printed[printed.index("predicted / measured") :].splitlines()[1:]
    return [line for line in lines if line.startswith("tiny ") and line.endswith(" -")]
