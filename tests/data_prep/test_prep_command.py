import pytest

from data_prep.build.build import BuildOptions, build
from data_prep.shards.index import write_index
from data_prep.utterance import write_jsonl
from launch.command import main


def test_prep_from_manifest_to_checked_shards(tmp_path, corpus, capsys):
    write_jsonl(tmp_path / "given.jsonl", corpus)
    manifest, out = str(tmp_path / "utterances.jsonl"), str(tmp_path / "out")
    assert main(["prep", "import", "jsonl", str(tmp_path / "given.jsonl"), "--out", manifest]) == 0
    printed = capsys.readouterr().out
    assert "12 rows read, 12 kept, dropped: none" in printed and printed.count("größe") == 3
    assert main(["prep", "build", manifest, out, "--workers", "1", "--shard-size", "6"]) == 0
    assert "12 utterances" in capsys.readouterr().out
    assert main(["prep", "build", manifest, out, "--workers", "1", "--shard-size", "6"]) == 0
    assert "already built" in capsys.readouterr().out
    assert main(["prep", "check", out]) == 0 and main(["prep", "stats", out]) == 0
    assert "all well" in capsys.readouterr().out
    (tmp_path / "out" / "shard-000001.tar").write_bytes(b"")
    assert main(["prep", "check", out]) == 1
    assert "shard-000001.tar: 0 bytes" in capsys.readouterr().out


def test_nothing_that_a_file_says_steers_the_terminal(tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    write_index(out, "features", [], {"dim": 4, "\x1b[2J": "\x1b]0;x\x07"}, {}, {"bad": {"\x1b[31m": 1}})
    assert main(["prep", "stats", str(out)]) == 0
    assert main(["prep", "import", "jsonl", str(tmp_path / "a\x1b[31m.jsonl"), "--out", str(tmp_path / "b.jsonl")]) == 2
    assert main(["prep", "stats", str(tmp_path / "a\x1b]0;x\x07")]) == 2
    printed = capsys.readouterr()
    assert "\\x1b[2J" in printed.out and "\\x1b[31m" in printed.out and "\\x1b]0;x" in printed.err
    assert "\x1b" not in printed.out + printed.err and "\x07" not in printed.out + printed.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["build", "nowhere", "out"],
        ["build", ".", "out"],
        ["build", "empty.jsonl", "out"],
        ["build", "mute.jsonl", "out"],
        ["build", "empty.jsonl", "out", "--workers", "0"],
        ["import", "librispeech", "nowhere", "--out", "out"],
        ["build", "", "out"],
        ["build", "empty.jsonl", ""],
        ["build", "corpus", "corpus/../corpus", "--overwrite"],
        ["import", "auto", "good.jsonl", "--out", "good.jsonl"],
        ["import", "auto", "good.jsonl", "--out", "mute.jsonl"],
        ["import", "auto", "good.jsonl", "--out", "corpus"],
        ["merge", "", "corpus"],
        ["check", "nowhere"],
        ["stats", "."],
        ["features", "nowhere", "out", "--encoder", "x"],
    ],
)
def test_a_mistake_is_one_line_and_exit_2_and_leaves_nothing(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "mute.jsonl").write_text('{"audio": "a.wav"}\n')
    (tmp_path / "good.jsonl").write_text('{"audio": "a.wav", "text": "words"}\n')
    (tmp_path / "corpus").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.glob("*.*")}
    assert main(["prep", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.glob("*.*")} == before
    assert not (tmp_path / "out").exists() and not any((tmp_path / "corpus").iterdir())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("build good.jsonl out --max-seconds -3", "--max-seconds is -3"),
        ("build good.jsonl out --max-seconds 0", "--max-seconds is 0"),
        ("build good.jsonl out --max-seconds nan", "--max-seconds is nan"),
        ("build good.jsonl out --min-seconds -1", "--min-seconds is -1"),
        ("build good.jsonl out --min-seconds inf", "--min-seconds is inf"),
        ("build good.jsonl out --min-seconds 5 --max-seconds 2", "--min-seconds 5 is more than --max-seconds 2"),
        ("build good.jsonl out --shard-size 0", "shard_size is 0"),
        ("build good.jsonl out --workers -2", "workers is -2"),
        ("build good.jsonl out --max-bad 2", "max_bad is 2"),
        ("build good.jsonl out --trim-silence -3", "trim_silence is -3"),
        ("import auto good.jsonl --out out --max-bad -0.1", "max_bad is -0.1"),
        ("reshard out data --max-seconds -3", "--max-seconds is -3"),
        ("reshard out data --min-seconds 5 --max-seconds 2", "--min-seconds 5 is more than --max-seconds 2"),
        ("reshard out data --shard-size 0", "shard_size is 0"),
        ("reshard out data --workers 0", "workers is 0"),
        ("merge out data --workers 0", "workers is 0"),
        ("sample data out -n -2", "number is -2"),
        ("check data --workers 0", "workers is 0"),
        ("check data --max-problems -2", "--max-problems is -2"),
        ("index data out --workers 0", "workers is 0"),
        ("synth out --utterances 0", "utterances is 0"),
        ("features data out --encoder x --verify -3", "--verify is -3"),
        ("features data out --encoder x --ask-above -3", "--ask-above is -3"),
    ],
)
def test_a_number_that_cannot_be_is_refused_with_its_value(arguments, named, tmp_path, corpus, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "good.jsonl", corpus[:2])
    build(corpus[:2], tmp_path / "data", BuildOptions(max_bad=1))
    capsys.readouterr()
    assert main(["prep", *arguments.split()]) == 2
    said = capsys.readouterr().err
    assert named in said and said.count("\n") == 1 and not (tmp_path / "out").exists()
