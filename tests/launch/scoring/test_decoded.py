"""Scoring on several ranks: the same results on 1, 2 and 3, killed and resumed, under the real launchers too."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from data_prep.audio.decode import encode_flac
from data_prep.durable import lock, read_records
from data_prep.shards.index import shard_name, write_index
from data_prep.shards.tar import ShardWriter
from launch.command import main
from launch.scoring import ranks as scoring_ranks
from launch.scoring.ranks import own_device
from model.errors import UserError
from tests import ranks
from tests.decode.conftest import noise
from tests.tiny import tiny_recogniser
from train.dist.launch_env import RankEnv

ROOT = Path(__file__).parents[3]
KEYS = [f"u{i}" for i in range(9)]


class World(NamedTuple):
    words: list[str]  # the command, without --out
    expected: bytes  # results.jsonl of one process
    seconds: float  # of audio that can be decoded


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    folder = tmp_path_factory.mktemp("world")
    _, adapter = tiny_recogniser(folder)
    samples = [3_000 + 2_000 * i for i in range(8)] + [400]  # the last is too short
    (folder / "shards").mkdir()
    with ShardWriter(folder / "shards" / shard_name(0)) as writer:
        for i, count in enumerate(samples):
            meta = {"text": f"the cat {i}", "seconds": count / 16000, "speaker": "anna", "language": "en"}
            writer.add(KEYS[i], "flac", encode_flac(noise(i, count)), meta | {"task": "transcribe", "meta": {}}, count)
        info = writer.close()
    write_index(folder / "shards", "audio", [info], {}, {}, {})
    words = ["score", str(adapter), str(folder / "shards"), "--max-new-tokens", "6", "--batch-tokens", "1"]
    assert main([*words, "--out", str(folder / "out")]) == 0
    assert not (folder / "out" / "decoding").exists()
    return World(words, (folder / "out" / "results.jsonl").read_bytes(), sum(samples[:-1]) / 16000)


def start(words: list[str], number: int, log: Path, own: dict[int, list[str]] | None = None) -> list[list]:
    """Runs the command on `number` ranks; [exit code, output] of each."""
    logs = [log.with_suffix(f".{rank}") for rank in range(number)]
    running = ranks.start_verb(words, number, logs, own or {})
    for process in running:
        process.join(ranks.HANGS_AFTER)
    return [[process.exitcode, log.read_text()] for process, log in zip(running, logs, strict=True)]


def kept(out: Path) -> list[str]:
    """The keys of utterances that are decoded and not yet scored."""
    parts = sorted((out / "decoding").glob("rank-*.jsonl"))
    return [row["key"] for part in parts for batch in read_records(part) for row in batch["rows"]]


def test_two_and_three_ranks_give_the_results_of_one(world, tmp_path):
    for number in (2, 3):
        out = tmp_path / str(number)
        ended = start([*world.words, "--out", str(out)], number, tmp_path / f"{number}.log")
        assert [code for code, _ in ended] == [0] * number, ended
        assert "s of audio" in ended[0][1] and "utterances 8 of 9" in ended[0][1]
        assert [text for _, text in ended[1:]] == [""] * (number - 1)
        assert (out / "results.jsonl").read_bytes() == world.expected and not (out / "decoding").exists()
        decoding = json.loads((out / "score.json").read_text())["decoding"]
        assert decoding["ranks"] == number and decoding["audio_seconds"] == pytest.approx(world.seconds, abs=0.01)
        assert decoding["rtfx"] == pytest.approx(decoding["audio_seconds"] / decoding["seconds"], rel=0.05)


def test_ranks_that_differ_in_what_they_decode_and_a_folder_in_use_are_refused(world, tmp_path):
    other = tmp_path / "shards"
    shutil.copytree(world.words[2], other)
    with ShardWriter(other / shard_name(0)) as writer:
        meta = {"text": "mat", "seconds": 1.0, "speaker": "ben", "language": "en", "task": "transcribe", "meta": {}}
        writer.add("x", "flac", encode_flac(noise(0, 16_000)), meta, 16_000)
        info = writer.close()
    write_index(other, "audio", [info], {}, {}, {})
    out = tmp_path / "out"
    own = {0: [world.words[2]], 1: [str(other)]}
    [first, second] = start([*world.words[:2], "--out", str(out)], 2, tmp_path / "log", own)
    assert (first[0], second) == (2, [2, ""]) and "the ranks do not run the same shards_digest: rank 0 on" in first[1]
    (out / "decoding").mkdir()
    holder = os.open(out / "decoding", os.O_RDONLY)
    assert lock(holder)
    [first, second] = start([*world.words, "--out", str(out)], 2, tmp_path / "busy")
    os.close(holder)
    assert (first[0], second) == (2, [2, ""])
    assert f"another process is decoding in {out}/decoding; wait for it, or give another --out" in first[1]


def test_real_launchers_start_ranks_and_a_killed_decoding_resumes_under_another(world, tmp_path, capsys):
    out = tmp_path / "out"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    programs, words = Path(sys.executable).parent, [*world.words, "--out", str(out)]

    def launch(*command: str) -> tuple[int, str]:
        given = [str(programs / command[0]), *command[1:], *words]
        done = subprocess.run(given, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    port = str(ranks.free_port())
    code, text = launch("torchrun", "--nproc_per_node=2", f"--master_port={port}", "-m", "tests.launch.scoring.dying")
    done = kept(out)
    assert code and (out / "decoding" / "rank-00001.jsonl").exists() and len(done) < 8, text
    assert not (out / "results.jsonl").exists()
    capsys.readouterr()
    assert main([*words, "--beams", "2"]) == 2
    refused = capsys.readouterr().err
    assert "holds another, unfinished decoding (beams 1, not 2); give another --out, or --overwrite" in refused
    port = str(ranks.free_port())
    code, text = launch("deepspeed", "--num_accelerators=2", f"--master_port={port}", "--module", "launch")
    assert code == 0, text
    assert not done or f"{len(done)} of 9 utterances were decoded by an earlier start" in text
    assert (out / "results.jsonl").read_bytes() == world.expected and not (out / "decoding").exists()


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_keeps_decoded_batches(world, tmp_path, capfd, number, monkeypatch):
    from decode import resume

    out, before = tmp_path / "out", resume.keep

    def keep(folder, rank, batch):
        before(folder, rank, batch)
        if len(kept(out)) == 3:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(resume, "keep", keep)
    assert main([*world.words, "--out", str(out)]) == 130
    err = capfd.readouterr().err
    assert f"decoded batches are in {out}/decoding; run the same command to continue\nslam-asr: stopped\n" in err
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL and len(kept(out)) == 3
    monkeypatch.setattr(resume, "keep", before)
    assert main([*world.words, "--out", str(out), "--strict"]) == 2
    assert "another, unfinished decoding (strict False, not True)" in capfd.readouterr().err and len(kept(out)) == 3
    assert main([*world.words, "--out", str(out)]) == 0
    assert "3 of 9 utterances were decoded by an earlier start" in capfd.readouterr().err
    assert (out / "results.jsonl").read_bytes() == world.expected


def test_the_loss_of_a_rank_ends_the_others_with_one_line(world, tmp_path):
    out, logs = tmp_path / "out", [tmp_path / f"{rank}.log" for rank in range(2)]
    running = ranks.start_verb([*world.words, "--out", str(out)], 2, logs, {})
    while not kept(out) and running[0].is_alive():
        time.sleep(0.005)
    running[1].kill()
    for process in running:
        process.join(ranks.HANGS_AFTER)
    text = logs[0].read_text()
    assert running[0].exitcode in (0, 2), text  # 0: all was decoded before
    if running[0].exitcode:
        assert text.splitlines()[-1].startswith("slam-asr: rank 0 of 2: another rank has ended"), text


def test_several_ranks_need_a_folder_and_a_gpu_each(world, monkeypatch, capsys):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert main(world.words) == 2
    assert "2 ranks need a folder for what they decode: give --out, on a shared file" in capsys.readouterr().err
    place = RankEnv(1, 2, 1, 2, "torchrun")
    assert own_device("auto", place) == "auto" and own_device("cpu", place) == "cpu"
    assert own_device("cuda:1", RankEnv()) == "cuda:1"
    for device, message in (("cuda:1", "each needs its own GPU; give auto, cuda or cpu"), ("cuda", "shows it 0 GPUs")):
        with pytest.raises(UserError, match=message):
            own_device(device, place)


def test_ranks_that_do_not_start_are_not_waited_for_long(monkeypatch):
    port = str(ranks.free_port())
    monkeypatch.setattr(scoring_ranks, "SECONDS_TO_JOIN", 1.0)
    for rank, message in ((0, "only 1 of 2 ranks have started in 1 s"), (1, f"reach the others at 127.0.0.1:{port}")):
        place = RankEnv(rank, 2, rank, 2, "hand", "127.0.0.1", port)
        with pytest.raises(UserError, match=message), scoring_ranks.joined(place):
            pass


def test_n_best_lists_are_in_the_results_and_kept_when_scored_again(world, tmp_path):
    assert main([*world.words, "--beams", "3", "--nbest", "2", "--out", str(tmp_path / "out")]) == 0
    assert main(["score", str(tmp_path / "out"), "--normaliser", "verbatim", "--out", str(tmp_path / "again")]) == 0
    once, again = (read_records(tmp_path / name / "results.jsonl") for name in ("out", "again"))
    for row, other in zip(once[:-1], again, strict=False):
        best, second = row["alternatives"]
        assert best["text"] == row["hypothesis"] and best["score"] >= second["score"]
        assert other["alternatives"] == row["alternatives"]
    assert len(once) == 9 and "alternatives" not in once[-1], "too short to decode"


def test_another_systems_utterances_are_compared_before_decoding(world, tmp_path, capsys):
    (tmp_path / "ref").write_text('{"key": "other", "text": "a b"}\n')
    texts = ["--ref", str(tmp_path / "ref"), "--hyp", str(tmp_path / "ref")]
    assert main(["score", *texts, "--out", str(tmp_path / "other")]) == 0
    assert main([*world.words, "--out", str(tmp_path / "out"), "--against", str(tmp_path / "other")]) == 2
    assert f"missing in {tmp_path / 'other'}" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir()), "nothing was decoded"
