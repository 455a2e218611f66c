"""`slam-asr run`: its commands and refusals. test_newcomer and test_demo run all of it."""

import argparse
import json
import shlex
from pathlib import Path

import pytest

from data_prep.durable import locked_folder
from launch.command import main
from launch.deepspeed import local
from launch.run import configure, stages
from launch.run.request import is_begun, read_request, write_run_json
from model.errors import UserError

STAND_IN = Path(__file__).resolve().parents[2] / "model" / "stand_in"
MODELS = ["--encoder", str(STAND_IN / "encoder"), "--llm", str(STAND_IN / "llm")]
RECIPE = f"""\
model: {{encoder: {STAND_IN}/encoder, llm: {STAND_IN}/llm}}
data: {{train: out/features/train, dev: elsewhere}}
optim: {{epochs: 3}}
run: {{dir: runs/other}}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with two corpora, words.csv and test/words.csv, and a recipe."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local, "gpus", lambda: 0)
    (tmp_path / "test").mkdir()
    for name in ("words.csv", "test/words.csv"):
        (tmp_path / name).write_text("file,text,speaker\na.wav,hello,s1\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def commands(text: str) -> list[list[str]]:
    """Of a dry run, the words of each."""
    return [shlex.split(line, comments=True)[1:] for line in text.splitlines() if line.startswith("$ ")]


def request_of(*arguments: str):
    """The request that such a command line makes."""
    parser = argparse.ArgumentParser()
    configure(parser)
    return read_request(parser.parse_intermixed_args(list(arguments)))


def test_a_dry_run_prints_every_command_and_makes_nothing(place, capsys):
    before = sorted(place.rglob("*"))
    options = [
        "--build-options=--lowercase --allow-empty --column 'text=a word' --max-bad 0.2",
        "optim.epochs=4",
        "--ranks",
        "2",
    ]
    assert main(["run", "words.csv", "--test", "test/words.csv", *MODELS, "--out", "out", "--dry-run", *options]) == 0
    planned = commands(capsys.readouterr().out)
    assert planned[0] == (
        "slam-asr prep import auto words.csv --out out/manifests/train.jsonl --allow-empty --column".split()
        + ["text=a word", "--max-bad", "0.2"]
    )
    assert planned[1][4:7] == ["test/words.csv", "--out", "out/manifests/words.jsonl"]
    built = "slam-asr prep build out/manifests/train.jsonl out/shards --split train=0.9,dev=0.1 --split-by balanced"
    assert planned[2] == [*built.split(), "--lowercase", "--allow-empty", "--max-bad", "0.2"]
    assert planned[3][3:5] == ["out/manifests/words.jsonl", "out/shards/words"]
    assert [words[3:5] for words in planned[4:6]] == [
        [f"out/shards/{name}", f"out/features/{name}"] for name in ("train", "dev")
    ]
    assert (
        planned[6][:3] == ["slam-asr", "recipe", "new"]
        and planned[6][-1] == "out/recipe.yaml"
        and "--gpus" in planned[6]
    )
    assert planned[7] == "slam-asr launch local out/recipe.yaml optim.epochs=4 --ranks 2".split()
    assert planned[8][:4] == ["slam-asr", "score", "out/train", "out/shards/words"] and len(planned) == 9
    assert sorted(place.rglob("*")) == before


def test_a_given_recipe_names_the_models_and_gets_data_and_run_folder(place, capsys):
    arguments = ["words.csv", "--dev", "test/words.csv", "--recipe", "recipe.yaml", "--out", "out"]
    assert main(["run", *arguments, "--dry-run", "--llm", str(STAND_IN)]) == 2  # no LLM
    assert str(STAND_IN) in capsys.readouterr().err
    assert main(["run", *arguments, "--dry-run", "optim.lr=1e-3", "model.llm_dtype=nf4"]) == 0
    planned = commands(capsys.readouterr().out)
    expected = (
        f"python -m train recipe.yaml model.encoder={STAND_IN}/encoder model.llm={STAND_IN}/llm run.dir=out/train"
    )
    data = "data.train=out/features/train data.dev=out/features/dev"
    assert f"{expected} {data} optim.lr=1e-3 model.llm_dtype=nf4".split() in planned and not [
        words for words in planned if words[1] == "recipe"
    ]
    assert planned[-1][:2] == ["slam-asr", "score"] and "--llm-dtype nf4" in " ".join(planned[-1])


@pytest.mark.parametrize(
    ("more", "cached"),
    [
        ([], True),
        (["--features", "no"], False),
        (["optim.epochs=1"], False),
        (["augment.speed=[0.9,1.0,1.1]"], False),
        (["optim.epochs=1", "--features", "yes"], True),
    ],
)
def test_features_are_cached_where_they_are_read_again(place, more, cached):
    request = request_of("words.csv", *MODELS, "--out", "out", *more)
    assert stages.caches(request) is cached
    request.out.mkdir()
    write_run_json(request, not cached)  # as decided at an earlier start
    assert stages.caches(request) is not cached


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        (["nowhere.csv", *MODELS], ["'nowhere.csv' is not there"]),
        (["empty", *MODELS], ["empty is an empty folder"]),
        (["empty.csv", *MODELS], ["empty.csv is an empty file"]),
        (["words.csv"], ["--encoder is missing"]),
        (["words.csv", *MODELS[:2]], ["--llm is missing"]),
        (["words.csv", *MODELS, "--test", "./words.csv"], ["--test ./words.csv is CORPUS itself"]),
        (["words.csv", *MODELS, "--dev", "test/../words.csv"], ["--dev test/../words.csv is CORPUS itself"]),
        (["words.csv", *MODELS, "--dev", "test/words.csv", "--test", "test/words.csv"], ["is --dev itself"]),
        (["test", *MODELS, "--out", "test/out"], ["--out test/out lies in the corpus test"]),
        (["words.csv", *MODELS, "--out", "test"], ["--out test is not empty (words.csv)"]),
        (["words.csv", *MODELS, "--out", "recipe.yaml"], ["recipe.yaml is a file"]),
        (["words.csv", *MODELS, "run.dir=x"], ["run.dir=x", "--out"]),
        (["words.csv", *MODELS, "--recipe", "recipe.yaml", "data.train=x"], ["data.train=x", "CORPUS"]),
        (["words.csv", "--recipe", "keeps.yaml"], ["keeps.yaml has data.write_features"]),
        (["words.csv", "--recipe", "none.yaml"], ["none.yaml"]),
        (["words.csv", *MODELS, "optim.lrr=1"], ["optim.lrr", "did you mean"]),
        (["words.csv", *MODELS, "--ranks", "0"], ["--ranks is 0"]),
        (["words.csv", *MODELS, "--build-options=--lowrcase"], ["--build-options", "did you mean --lowercase"]),
        (["words.csv", *MODELS, "--build-options=--split a=1"], ["--split is decided here"]),
        (["words.csv", *MODELS, "--build-options=--column 'a"], ["close the quotes"]),
        (["words.csv", "--encoder", "test", *MODELS[2:]], ["encoder 'test'"]),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_made(place, capsys, arguments, values):
    (place / "empty").mkdir()
    (place / "empty.csv").write_text("")
    (place / "keeps.yaml").write_text(RECIPE.replace("data: {", "data: {write_features: x, "))
    before = sorted(place.rglob("*"))
    assert main(["run", *(["--out", "out"] if "--out" not in arguments else []), *arguments]) == 2
    err = capsys.readouterr().err
    assert all(value in err for value in values) and err.count("\n") == 1, err
    assert sorted(place.rglob("*")) == before


def test_more_ranks_than_gpus_are_refused(place, capsys, monkeypatch):
    monkeypatch.setattr(local, "gpus", lambda: 2)
    for name in ("CUDA_VISIBLE_DEVICES", "DS_ACCELERATOR"):
        monkeypatch.delenv(name, raising=False)
    assert main(["run", "words.csv", *MODELS, "--out", "out", "--ranks", "3"]) == 2
    assert "--ranks is 3, this host has 2 GPUs" in capsys.readouterr().err
    assert request_of("words.csv", *MODELS, "--out", "out").ranks == 2


def test_the_same_folder_takes_no_other_request_but_more_tests(place, capsys):
    base = ["words.csv", *MODELS, "--out", "out"]
    request = request_of(*base, "--test", "test/words.csv")
    (place / "out" / "manifests").mkdir(parents=True)
    request.manifest("train").write_text("")
    write_run_json(request, True)
    (place / "more.csv").write_text("file,text\n")
    assert is_begun(request_of(*base, "--test", "more.csv", "optim.epochs=9", "--ranks", "2"))
    for other, values in (
        (["test/words.csv", *base[1:]], ["CORPUS", str(place / "words.csv"), str(place / "test/words.csv")]),
        ([*base, "--llm", str(STAND_IN / "encoder")], ["--llm", str(STAND_IN / "llm")]),
        ([*base, "--dev", "test/words.csv"], ["--dev", "not given", str(place / "test/words.csv")]),
        ([*base, "--features", "no"], ["--features", "yes", "no"]),
        ([*base, "--build-options=--lowercase"], ["--build-options", "--lowercase"]),
    ):
        assert main(["run", *other]) == 2
        err = capsys.readouterr().err
        assert all(value in err for value in values) and err.count("\n") == 1, err
    with locked_folder(place / "out", UserError):
        assert main(["run", *base]) == 2
    assert "another `slam-asr run` is at work in out" in capsys.readouterr().err


def test_tests_of_one_name_get_names_of_their_own(place):
    tests = ["test/words.csv", "dev.csv", "other/words.csv"]
    (place / "other").mkdir()
    for name in tests[1:]:
        (place / name).write_text("file,text\n")
    request = request_of("words.csv", *MODELS, "--out", "out", *(word for test in tests for word in ("--test", test)))
    assert list(request.tests) == ["words", f"{place.name}-dev", "other-words"]


def test_a_stage_that_fails_gives_its_exit_code_and_the_same_command_may_be_mended(place, capfd):
    assert main(["run", "words.csv", *MODELS, "--out", "out"]) == 2
    out, err = capfd.readouterr()
    assert "a.wav" in err and "run: stage import ended with exit code 2" in err.splitlines()[-1]
    assert json.loads((place / "out" / "run.json").read_text())["corpus"] == str(place / "words.csv")
    assert main(["run", "test/words.csv", *MODELS, "--out", "out", "--dry-run"]) == 0  # nothing was made of it


def test_too_few_utterances_for_a_part_to_evaluate_on(place, capfd):
    request = request_of("words.csv", *MODELS, "--out", "out")
    (place / "out" / "manifests").mkdir(parents=True)
    request.manifest("train").write_text('{"key": "a", "audio": "a.wav", "text": "hello"}\n' * 3)
    write_run_json(request)
    assert main(["run", "words.csv", *MODELS, "--out", "out"]) == 2
    assert "has 3 utterances" in capfd.readouterr().err


def test_recordings_and_speakers_that_are_trained_on_are_named(place):
    request = request_of("words.csv", "--dev", "test/words.csv", *MODELS, "--out", "out")
    rows = {"train": [("a", "s1"), ("b", "s2"), ("c", None)], "dev": [("a", "s1"), ("d", "s3")]}

    def lines() -> list[str]:
        for name, each in rows.items():
            file = request.manifest(name)
            file.parent.mkdir(parents=True, exist_ok=True)
            manifest = [{"audio": f"{audio}.wav", "text": "a", "speaker": speaker} for audio, speaker in each]
            file.write_text("".join(f"{json.dumps(row)}\n" for row in manifest))
        return list(stages.shared(request))

    assert lines() == ["dev: 1 of 2 recordings are trained on, too, so its WER says little; give others"]
    rows["dev"] = [("e", "s1"), ("d", "s3")]
    assert lines() == ["dev: 1 of 2 speakers (s1) are trained on, too, so its WER is too low"]
    rows["dev"] = [("e", "s4"), ("d", None)]
    assert lines() == []
