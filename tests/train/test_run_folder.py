"""Which folder a run may have, what a full disk says, and data that is given twice: one line, nothing begun."""

import os
import re
import shutil
from pathlib import Path

import pytest

from data_prep.shards.opening import read_index
from launch.command import main
from tests import ranks
from tests.accidents import DiskFills
from tests.train.test_damage import small_disk  # noqa: F401 - a fixture
from tests.train.test_open_run import refuse


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture
def shards(ground, tmp_path) -> Path:
    return Path(shutil.copytree(ground / "shards", tmp_path / "shards"))


@pytest.mark.parametrize("inside", ["", "runs/one"])
def test_a_run_is_not_put_into_a_folder_of_shards(ground, shards, tmp_path, inside):
    before = files(shards)
    arguments = [str(ground / "recipe.yaml"), f"run.dir={shards / inside}", f"data.train={ground / 'features'}"]
    said = ranks.train(arguments, 1, tmp_path / "log", expected=2)
    assert str(shards) in said and "index.json" in said and "another run.dir" in said
    assert files(shards) == before


@pytest.mark.parametrize("key", ["data.train", "data.dev", "data.write_features"])
def test_a_run_is_not_put_where_the_recipe_has_its_data(ground, tmp_path, key):
    folder = tmp_path / "data"
    assert f"run.dir is {folder}, which is {key} too" in refuse(
        ground, folder, f"{key}={tmp_path / 'x' / '..' / 'data'}"
    )
    assert not folder.exists()


def test_a_folder_of_other_things_is_not_taken_for_a_run_and_is_left_as_it_is(ground, tmp_path, capsys):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter1.tex").write_text("It was")
    (folder / "notes.yaml").touch()
    assert re.search(f"run.dir {folder} holds chapter1.tex and is no run", refuse(ground, folder))
    for verb in (["launch", "local"], ["submit"]):
        assert main([*verb, str(ground / "recipe.yaml"), f"run.dir={folder}", "--dry-run"]) == 2
        assert "chapter1.tex" in capsys.readouterr().err
    assert files(folder) == {"chapter1.tex", "notes.yaml"}


def test_a_folder_with_a_recipe_and_a_log_may_become_a_run_and_a_run_may_hold_anything(ground, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("recipe.yaml", "train.log", ".gitkeep"):
        (folder / name).touch()
    arguments = [str(ground / "recipe.yaml"), f"run.dir={folder}"]
    ranks.train([*arguments, "optim.max_steps=1"], 1, tmp_path / "log")
    (folder / "chapter1.tex").touch()
    ranks.train([*arguments, "optim.max_steps=2"], 1, tmp_path / "log")


def test_an_address_is_no_folder_of_a_run(ground, tmp_path):
    said = ranks.train([str(ground / "recipe.yaml"), "run.dir=s3://bucket/run"], 1, tmp_path / "log", expected=2)
    assert "run.dir is s3://bucket/run, a run needs a folder on a disk" in said


PAGE = os.sysconf("SC_PAGE_SIZE")  # a file on a tmpfs takes whole pages


@pytest.mark.parametrize(
    ("pages", "file"), [(0, "run"), (1, "run/config.yaml"), (3, "run/checkpoints")], ids=["LOCK", "config", "save"]
)
def test_on_a_disk_that_is_full_from_the_start_one_line_names_the_file(ground, small_disk, tmp_path, pages, file):  # noqa: F811
    full = DiskFills(small_disk, left=pages * PAGE, nth=0)
    arguments = [str(ground / "recipe.yaml"), f"run.dir={small_disk / 'run'}"]
    text = ranks.train(arguments, 2, tmp_path / "log", expected=2, before=full)
    lines = [line for line in text.splitlines() if line.startswith("train: ")]
    assert len(lines) == 1 and "Traceback" not in text, text
    assert f"{small_disk / file}" in lines[0] and "No space left on device" in lines[0], lines
    (small_disk / "ballast").unlink()
    ranks.train([*arguments, "optim.max_steps=1"], 2, tmp_path / "log")


def test_hypotheses_that_cannot_be_written_are_named_and_the_run_goes_on(ground, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "LOCK").touch()
    (run / "dev").touch()  # where the folder of hypotheses should be
    watched = [f"data.dev={ground / 'dev'}", "eval.wer=true", "eval.max_new_tokens=2", "optim.max_steps=1"]
    text = ranks.train([str(ground / "recipe.yaml"), f"run.dir={run}", *watched], 2, tmp_path / "log")
    assert re.search(rf"cannot write {run}/dev/step-0*1.jsonl.*; training goes on", text), text
    assert (run / "FINISHED").exists() and len(ranks.losses(run, "dev", "wer")) == 1


def test_the_same_data_twice_is_refused_by_path_by_link_and_as_a_copy(ground, shards, tmp_path):
    (tmp_path / "link").symlink_to(ground / "shards")
    for other in (ground / "shards", tmp_path / "link", shards):
        said = refuse(ground, tmp_path / "run", f"data.train=[{ground / 'shards'}, {other}]")
        assert f"data.train names the same utterances twice, {ground / 'shards'} and {other}" in said
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize("encoded", ["data.train", "data.dev", None])
def test_a_dev_set_that_is_trained_on_is_refused_encoded_or_not(ground, shards, tmp_path, encoded):
    given = {"data.train": ground / "shards", "data.dev": shards}
    if encoded:
        given[encoded] = ground / "features"
    overrides = [f"data.train={given['data.train']}", f"data.dev=[{ground / 'dev'}, {given['data.dev']}]"]
    said = refuse(ground, tmp_path / "run", *overrides)
    assert f"data.dev {given['data.dev']} holds the utterances of data.train {given['data.train']}" in said
    assert len(read_index(ground / "dev")) == 6


def test_a_list_without_brackets_is_told_how_lists_are_written(ground, tmp_path):
    said = refuse(ground, tmp_path / "run", f"data.train={ground / 'shards'},{ground / 'dev'}")
    assert f"is written data.train=[{ground / 'shards'}, {ground / 'dev'}]" in said
    said = refuse(ground, tmp_path / "run", "data.dev=s3://a/b,s3://a/c")
    assert "is written data.dev=[s3://a/b, s3://a/c]" in said
