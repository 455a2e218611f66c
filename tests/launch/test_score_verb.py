"""`slam-asr score` without a model, on files or an earlier scoring; and on a run's own dev data."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launch.command import main
from launch.scoring.forms import _dev_of
from launch.scoring.report import curves_of
from launch.scoring.rows import FILES
from model.errors import UserError
from train.recipe.config import load_config
from train.recipe.identity import to_yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def texts(tmp_path):
    """Files of references and hypotheses: 12 speakers with 4 utterances each."""
    for name, wrong in (("ref", 0), ("hyp", 3), ("worse", 2)):
        rows = []
        for i in range(48):
            text = "The colour of twenty one" if name == "ref" or i % wrong else "the color is 21"
            meta = {"speaker": f"s{i % 12}", "duration": 1 + i / 4, "meta": {"room": f"room {i % 2}"}}
            rows.append({"key": f"s{i % 12}-{i}", "text": text} | (meta if name == "ref" else {}))
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {name: str(tmp_path / name) for name in ("ref", "hyp", "worse")}


def scored(texts, out, *more, hyp="hyp") -> dict:
    assert main(["score", "--ref", texts["ref"], "--hyp", texts[hyp], "--out", str(out), *more]) == 0
    return json.loads((out / "score.json").read_text())


def test_several_normalisers_and_groups_from_the_same_texts(texts, tmp_path, capsys):
    score = scored(texts, tmp_path / "out", "--normaliser", "plain,whisper-english,paper", "--by", "room,duration")
    wers = {name: round(each["wer"], 3) for name, each in score["normalisers"].items()}
    assert wers["plain"] > wers["whisper-english"] > wers["paper"] > 0
    assert list(score["by"]) == ["duration", "room"] and score["bootstrap"]["unit"] == "speaker"
    assert score["decoding"] is None and score["references"] == texts["ref"]
    table = capsys.readouterr().out
    assert "room 1" in table and "10 to 15 s" in table and "normaliser plain; 95 % intervals from 10,000 draws" in table
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(FILES)
    assert (tmp_path / "out" / "hyp.trn").read_text().splitlines()[0] == "the color is 21 (s0-s0-0)"


def test_an_earlier_scoring_is_scored_again_from_its_folder_alone(texts, tmp_path, capsys):
    first = scored(texts, tmp_path / "one", "--by", "room,speaker")
    assert main(["score", str(tmp_path / "one"), "--out", str(tmp_path / "two"), "--by", "room,speaker"]) == 0
    assert {name: (tmp_path / "one" / name).read_bytes() for name in FILES if name != "report.html"} == {
        name: (tmp_path / "two" / name).read_bytes() for name in FILES if name != "report.html"
    }
    capsys.readouterr()
    again = ["score", str(tmp_path / "one"), "--normaliser", "verbatim"]
    assert main([*again, "--out", str(tmp_path / "one")]) == 2
    assert "normaliser 'plain', not 'verbatim'" in capsys.readouterr().err
    assert main([*again, "--out", str(tmp_path / "one"), "--overwrite"]) == 0
    score = json.loads((tmp_path / "one" / "score.json").read_text())
    assert score["all"]["wer"] > first["all"]["wer"] and score["hypotheses"] == first["hypotheses"]


def test_scoring_again_needs_no_torch(texts, tmp_path):
    scored(texts, tmp_path / "one")
    code = "import sys; from launch.command import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code, "score", str(tmp_path / "one")], capture_output=True, text=True)
    assert done.returncode == 0 and "48" in done.stdout, done.stderr


def test_two_systems(texts, tmp_path, capsys):
    scored(texts, tmp_path / "other", hyp="worse")
    capsys.readouterr()
    score = scored(texts, tmp_path / "out", "--against", str(tmp_path / "other"), "--normaliser", "plain,verbatim")
    difference = score["against"]["normalisers"]["plain"]
    assert difference["difference"] == pytest.approx(score["all"]["wer"] - difference["wer"]) and difference["p"] > 0.05
    said = score["against"]
    assert said["p"] == difference["p"] and said["results"] == str(tmp_path / "other")
    assert list(said["normalisers"]) == ["plain", "verbatim"]
    assert "p = " in capsys.readouterr().out
    half = tmp_path / "half"
    shutil.copytree(tmp_path / "other", half)
    lines = (half / "results.jsonl").read_text().splitlines(keepends=True)
    (half / "results.jsonl").write_text("".join(lines[:40]))
    assert main(["score", str(tmp_path / "out"), "--against", str(half)]) == 2
    assert f"8 utterances of {tmp_path / 'out'} missing in {half}: s4-40, s5-41" in capsys.readouterr().err


def test_hostile_texts_are_scored_and_written(tmp_path, capsys):
    hostile = ["{ a / b }", ";; no comment", "\u0000\u001b[31m", "<script>alert(1)</script>", "(x)", "=7B", "\u202e@"]
    rows = [{"key": f"k {i}\n(", "text": text, "speaker": text} for i, text in enumerate(hostile)]
    (tmp_path / "ref").write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = ["--normaliser", "verbatim,plain,whisper-basic,whisper-english,paper", "--by", "speaker"]
    same = ["--ref", str(tmp_path / "ref"), "--hyp", str(tmp_path / "ref"), "--out", str(tmp_path / "out")]
    assert main(["score", *same, *names]) == 0
    assert json.loads((tmp_path / "out" / "score.json").read_text())["all"]["wer"] == 0
    out, lines = capsys.readouterr().out, (tmp_path / "out" / "ref.trn").read_text().split("\n")
    assert "\x1b" not in out and "\u202e" not in out
    assert len(lines) == len(hostile) + 1 and all(line.count("(") == 1 for line in lines[:-1])


def test_audio_without_recordings_is_refused_before_anything_is_scored(texts, tmp_path, capsys):
    given = ["score", "--ref", texts["ref"], "--hyp", texts["hyp"], "--out", str(tmp_path / "out"), "--audio"]
    assert main(given) == 2
    assert "--audio needs shards, but these texts come from files" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


def test_a_run_alone_is_scored_on_its_dev_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, recipe = tmp_path / "elsewhere" / "run", ROOT / "recipes" / "librispeech_tinyllama.yaml"
    (run / "checkpoints" / "step-3").mkdir(parents=True)

    def with_dev(*dev: str) -> Path:
        (run / "config.yaml").write_text(
            to_yaml(load_config(recipe, [f"data.dev=[{', '.join(dev)}]", "save.best=none"]))
        )
        return run

    assert _dev_of(with_dev("data/dev")) == "data/dev", "missing: reading it gives the error"
    (tmp_path / "elsewhere" / "data" / "dev").mkdir(parents=True)
    assert _dev_of(with_dev("data/dev")) == str(tmp_path / "elsewhere" / "data" / "dev"), "beside the run"
    (tmp_path / "data" / "dev").mkdir(parents=True)
    assert _dev_of(with_dev("data/dev")) == "data/dev", "where the training was started"
    for dev, problem in (((), "has no data.dev"), (("a", "b"), r"has 2 directories in data.dev \(a, b\)")):
        with pytest.raises(UserError, match=f"{problem}; give SHARDS, one directory, after it"):
            _dev_of(with_dev(*dev))


def test_the_curves_of_a_report_are_those_of_the_run(tmp_path):
    checkpoint = tmp_path / "run" / "checkpoints" / "step-3"
    checkpoint.mkdir(parents=True)
    assert curves_of(checkpoint) is None
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert curves_of(checkpoint) == curves_of(tmp_path / "run") == [{"step": 1, "loss": 2.0}]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--beams", "4", "--strict"], "--beams, --strict: nothing is decoded here, existing texts are scored"),
        (["--overwrite"], "--overwrite replaces what is in --out DIR"),
    ],
)
def test_flags_that_would_do_nothing_are_refused(texts, tmp_path, capsys, flags, message):
    scored(texts, tmp_path / "one")
    for form in (["--ref", texts["ref"], "--hyp", texts["hyp"]], [str(tmp_path / "one")]):
        capsys.readouterr()
        assert main(["score", *form, *flags]) == 2
        assert message in capsys.readouterr().err


def test_what_the_corpus_marks_as_silent_stays_so_when_it_is_scored_again(tmp_path):
    rows = [{"key": key, "text": "a b", "silent": key == "x", "audio": f"{key}.wav"} for key in "xyz"]
    (tmp_path / "ref").write_text("".join(json.dumps(row) + "\n" for row in rows))
    same = {"ref": str(tmp_path / "ref"), "hyp": str(tmp_path / "ref")}
    assert scored(same, tmp_path / "one")["rates"]["hallucinated_words"] == 2
    assert main(["score", str(tmp_path / "one"), "--out", str(tmp_path / "two")]) == 0
    for name in ("score.json", "nemo.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize(
    "change", [{"adapter": 5}, {"shards": []}, {"decoding": 1.5}, {"by": 5, "normalisers": "plain"}]
)
def test_a_score_of_other_hands_is_one_line(texts, tmp_path, capsys, change):
    score = scored(texts, tmp_path / "one")
    (tmp_path / "one" / "score.json").write_text(json.dumps(score | change))
    capsys.readouterr()
    assert main(["score", str(tmp_path / "one"), "--out", str(tmp_path / "one")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
