"""Checkpoints, disks and shards that fail under a training: what is said, what is left, what the same command does."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.shards.opening import read_index, shard_path
from tests import ranks
from tests.accidents import STEP, CopiedSaving, DiskFills, FileLimit, ShardFault
from tests.train.runs import assert_same, refuse
from tests.train.runs import run as train
from train.engine.checkpoint import find_newest

TMP = "checkpoints/.tmp-step-"
PHASES: list[tuple[str, int | None]] = [  # of a run's first three saves, in order; the newest checkpoint before each
    (f"rename {TMP}00000000-*", None),
    (f"fsync *{TMP[12:]}00000001-*/adapter.safetensors", 0),
    (f"fsync *{TMP[12:]}00000001-*/optimizer.safetensors", 0),
    (f"fsync *{TMP[12:]}00000001-*/MANIFEST.json", 0),
    (f"fsync {TMP}00000001-*", 0),
    (f"rename {TMP}00000001-*", 0),
    ("symlink checkpoints/.tmp-best", 1),
    ("rename checkpoints/.tmp-best", 1),
    ("unlink */adapter.*", 2),  # of a checkpoint past save.total_limit
    ("rmdir checkpoints/step-*", 2),
]
RESUMED = (0, 2, 7, 8)
"""The phases that leave most behind: the first checkpoint, a torn file, a link half made, a checkpoint half deleted."""


def test_killed_in_any_phase_of_a_save_the_newest_whole_checkpoint_is_used(ground, straight, tmp_path):
    watched = ["save.every_steps=1", "save.total_limit=2", "save.best=loss", "eval.every_steps=null"]
    watched += [f"data.dev={ground / 'dev'}", "data.max_dev_samples=3"]
    copied = CopiedSaving(tmp_path / "run", tuple(call for call, _ in PHASES), tmp_path)
    train(ground, tmp_path / "run", *watched, "optim.max_steps=3", before=copied)
    for phase, (call, newest) in enumerate(PHASES):
        run = tmp_path / f"{phase}"
        expected = None if newest is None else run / "checkpoints" / f"step-{newest:08d}"
        assert find_newest(run / "checkpoints") == (expected, []), call
        if phase in RESUMED:
            text = train(ground, run, *watched)
            assert "is damaged" not in text
            assert (f"resuming from {expected} " in text) == (newest is not None), text
            assert_same(run, straight(1))
            assert len(list((run / "checkpoints").glob("step-*"))) in (2, 3), "the limit, and the best"


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        {4: ("adapter.safetensors", flip)},
        {4: ("optimizer.safetensors", lambda file: os.truncate(file, 1000))},
        {4: ("MANIFEST.json", Path.unlink), 2: ("state.json", lambda file: file.write_bytes(b""))},
    ],
    ids=["a flipped bit", "truncated", "the two newest"],
)
def test_a_damaged_checkpoint_is_named_and_the_newest_whole_one_gives_the_same_adapter(
    ground, straight, tmp_path, damage: dict[int, tuple[str, Callable[[Path], object]]]
):
    run = tmp_path / "run"
    shutil.copytree(straight(1), run, symlinks=True)
    for later in (6, 8):
        shutil.rmtree(run / "checkpoints" / f"step-{later:08d}")
    for step, (name, spoil) in damage.items():
        spoil(run / "checkpoints" / f"step-{step:08d}" / name)
    text = train(ground, run)
    for step, (name, _) in damage.items():
        assert re.search(rf"checkpoint step-0*{step} is damaged \({name} .*\) and is passed over", text)
    assert re.search(f"resuming from .*step-0*{min(damage) - 2} ", text)
    assert_same(run, straight(1))


@pytest.fixture
def small_disk(mount_disk) -> Path:
    """A file system of 2 MB."""
    return mount_disk("2m")


@pytest.fixture
def full(request, tmp_path) -> tuple[Path, DiskFills | FileLimit, str]:
    """A folder in which rank 0's third save fails, the cause, and the system's error message: a full disk or, where
    mounting is not allowed, a limit on file size."""
    try:
        disk = request.getfixturevalue("small_disk")
    except pytest.skip.Exception:
        return tmp_path, FileLimit(20_000, nth=3), "File too large"
    return disk, DiskFills(disk, left=100_000, nth=3), "No space left on device"


def test_on_a_full_disk_the_save_says_what_it_needs_and_with_space_the_same_command_goes_on(
    ground, straight, full, tmp_path
):
    (folder, accident, reason), log = full, tmp_path / "log"
    run = folder / "run"
    said = refuse(ground, run, world=2, before=accident, log=log)
    assert re.search(rf"cannot save a checkpoint of 161,\d+ bytes in .*: {reason}; earlier ones are whole", said)
    assert find_newest(run / "checkpoints") == (run / "checkpoints" / "step-00000002", [])
    assert not list((run / "checkpoints").glob(".tmp*")), "what was written of it is not in the way"
    (folder / "ballast").unlink(missing_ok=True)
    train(ground, run, world=2, log=log)
    assert_same(run, straight(2))


@pytest.fixture
def shards(ground, tmp_path) -> Path:
    """A copy of the shards, to be damaged."""
    return Path(shutil.copytree(ground / "shards", tmp_path / "shards"))


def test_a_shard_that_comes_back_in_time_is_waited_for_and_nothing_is_lost(ground, straight, shards, tmp_path):
    run, gone = tmp_path / "run", ShardFault(shards / "shard-000001.tar", "vanish", seconds=2.5)
    train(ground, run, f"data.train={shards}", "data.retry_seconds=60", world=2, before=gone)
    assert not (run / "lost.jsonl").exists()
    began = (run / "checkpoints" / "step-00000000").stat().st_mtime
    assert (run / "FINISHED").stat().st_mtime - began > 2.5, "it was missed"
    assert_same(run, straight(2))


@pytest.mark.parametrize("fault", ["vanish", "truncate", "change"])
def test_what_cannot_be_read_ends_the_run_on_all_ranks_with_the_utterance(ground, shards, tmp_path, fault):
    broken = ShardFault(shards / "shard-000000.tar", fault)
    said = refuse(ground, tmp_path / "run", f"data.train={shards}", "data.retry_seconds=1", world=2, before=broken)
    assert re.search(
        r"\d+ utterances? could not be read, data.max_lost allows 0; the last: utt-0.*shard-000000.tar", said
    )
    assert not ranks.writers(tmp_path / "run.log") and not (tmp_path / "run" / "FINISHED").exists()


def test_what_is_lost_in_the_middle_is_named_and_counted_and_the_ranks_stay_in_step(ground, straight, shards, tmp_path):
    run, index = tmp_path / "run", read_index(shards)
    cut = shards / "shard-000001.tar"
    broken = ShardFault(cut, "truncate", place=STEP, nth=4)
    overrides = [f"data.train={shards}", "data.retry_seconds=0.5", "data.max_lost=1", "optim.max_steps=30"]
    text = train(ground, run, *overrides, world=2, before=broken)
    lost = [json.loads(line) for line in (run / "lost.jsonl").read_text().splitlines()]
    half = (shards / "shard-000001.kept").stat().st_size // 2
    beyond = {
        index.key[i]
        for i in range(len(index))
        if shard_path(index, int(index.shard[i])) == cut and index.meta_offset[i] + index.meta_length[i] > half
    }
    assert {line["key"] for line in lost} == beyond and all(str(cut.name) in line["reason"] for line in lost)
    first = lost[0]["step"]
    assert f"step {first} is without" in text
    steps = ranks.losses(run, figure="step")
    assert steps == [*range(1, 31)] and ranks.losses(run)[: first - 1] == ranks.losses(straight(2))[: first - 1]
    state = json.loads((run / "checkpoints" / "step-00000030" / "state.json").read_text())
    assert state["lost"] == len(beyond) < len(lost), "one that is lost in every epoch counts once"
