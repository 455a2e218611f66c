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
from tests.train.runs import refuse, run
from tests.train.test_damage import small_disk  # noqa: F401 - a fixture


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture
def shards(ground, tmp_path) -> Path:
    return Path(shutil.copytree(ground / "shards", tmp_path / "shards"))


@pytest.mark.parametrize("inside", ["", "runs/one"])
def test_a_run_is_not_put_into_a_folder_of_shards(ground, shards, tmp_path, inside):
    before = files(shards)
    said = refuse(ground, shards / inside, f"data.train={ground / 'features'}", log=tmp_path / "log")
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
    run(ground, folder, "optim.max_steps=1")
    (folder / "chapter1.tex").touch()
    run(ground, folder, "optim.max_steps=2")


def test_an_address_is_no_folder_of_a_run(ground, tmp_path):
    said = ranks.train([str(ground / "recipe.yaml"), "run.dir=s3://bucket/run"], 1, tmp_path / "log", expected=2)
    assert "run.dir is s3://bucket/run, a run needs a folder on a disk" in said


PAGE = os.sysconf("SC_PAGE_SIZE")  # a file on a tmpfs takes whole pages


@pytest.mark.parametrize(
    ("pages", "file"), [(0, "run"), (1, "run/config.yaml"), (3, "run/checkpoints")], ids=["LOCK", "config", "save"]
)
def test_on_a_disk_that_is_full_from_the_start_one_line_names_the_file(ground, small_disk, tmp_path, pages, file):  # noqa: F811
    full = DiskFills(small_disk, left=pages * PAGE, nth=0)
    said = refuse(ground, small_disk / "run", world=2, before=full, log=tmp_path / "log")
    assert f"{small_disk / file}" in said and "No space left on device" in said, said
    (small_disk / "ballast").unlink()
    run(ground, small_disk / "run", "optim.max_steps=1", world=2, log=tmp_path / "log")


def test_hypotheses_that_cannot_be_written_are_named_and_the_run_goes_on(ground, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "LOCK").touch()
    (folder / "dev").touch()  # where the folder of hypotheses should be
    watched = [f"data.dev={ground / 'dev'}", "eval.wer=true", "eval.max_new_tokens=2", "optim.max_steps=1"]
    text = run(ground, folder, *watched, world=2)
    assert re.search(rf"cannot write {folder}/dev/step-0*1.jsonl.*; training goes on", text), text
    assert (folder / "FINISHED").exists() and len(ranks.losses(folder, "dev", "wer")) == 1


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
