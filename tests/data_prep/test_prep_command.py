import pytest

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


@pytest.mark.parametrize(
    "arguments",
    [
        ["build", "nowhere", "out"],
        ["build", ".", "out"],
        ["build", "empty.jsonl", "out"],
        ["build", "mute.jsonl", "out"],
        ["build", "empty.jsonl", "out", "--workers", "0"],
        ["import", "librispeech", "nowhere", "--out", "out"],
        ["check", "nowhere"],
        ["stats", "."],
        ["features", "nowhere", "out", "--encoder", "x"],
    ],
)
def test_a_mistake_is_one_line_and_exit_2_and_leaves_nothing(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "mute.jsonl").write_text('{"audio": "a.wav"}\n')
    assert main(["prep", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()
