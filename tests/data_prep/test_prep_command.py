import pytest

from data_prep.index import write_index
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
