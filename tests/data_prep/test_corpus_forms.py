"""The forms in which people have a little corpus: each is read, or one line says what it lacks."""

import json
import re
import shlex
import wave
from pathlib import Path

import pytest

from data_prep.audio.decode import AudioError, decode
from launch.command import main
from tests.data_prep.conftest import tone


def digits(folder: Path, *tables: str) -> Path:
    """A folder of two 8 kHz recordings, and of tables `name: line/line`."""
    folder.mkdir()
    for name in ("0_a", "1_b"):
        with wave.open(str(folder / f"{name}.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes((tone(0.3)[::2] * 32767).astype("<i2").tobytes())
    for table in tables:
        name, _, lines = table.partition(": ")
        (folder / name).write_text("".join(f"{line}\n" for line in lines.split("/")))
    return folder


@pytest.mark.parametrize("whole", ["table", "folder"])
@pytest.mark.parametrize(
    "table",
    [
        "train.csv: file,text,speaker/0_a.wav,zero,a/1_b.wav,one,b",
        "metadata.csv: path,sentence,client_id/0_a.wav,zero,a/1_b.wav,one,b",
        "x.csv: filename;label;speaker_id/0_a.wav;zero;a/1_b.wav;one;b",
        "x.tsv: wav\ttranscription\tspeaker/0_a.wav\tzero\ta/1_b.wav\tone\tb",
        'x.csv: "audio", "transcript", "speaker"/"0_a.wav", "zero", "a"/"1_b.wav", "one", "b"',
        'x.tsv: audio\t text\tspeaker/"0_a.wav"\t "zero"\ta/"1_b.wav"\t "one"\tb',
        "X.CSV: File Name,Text,Speaker/0_a.wav, zero,a/1_b.wav, one,b",
        'x.jsonl: {"audio": "0_a.wav", "text": "zero", "speaker": "a"}/'
        '{"audio": "1_b.wav", "text": "one", "speaker": "b"}',
    ],
)
def test_recordings_and_one_table_of_any_form_are_a_corpus(tmp_path, table, whole, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    corpus = digits(Path("corpus"), table)
    source = corpus if whole == "folder" else corpus / table.partition(":")[0]
    assert main(["prep", "import", "auto", str(source), "--out", "out.jsonl"]) == 0
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [(row["audio"], row["text"], row["speaker"]) for row in rows] == [
        ("corpus/0_a.wav", "zero", "a"),
        ("corpus/1_b.wav", "one", "b"),
    ]
    assert ("read from column 'label'" in capsys.readouterr().err) == ("label" in table)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("x.csv: 0_a.wav,zero/1_b.wav,one", ["x.csv:1", "0_a.wav, zero", "names no columns", "audio,text"]),
        ("x.csv: zero|a|0_a.wav/one|b|1_b.wav", ["x.csv:1", "zero, a, 0_a.wav", "names no columns"]),
        ("x.csv: clip,words/0_a.wav,zero", ["x.csv:1", "clip, words", "--column audio=clip --column text=words"]),
        ("x.csv: file,speaker,txt/0_a.wav,a,zero", ["x.csv:1", "no column 'text'", "--column text=txt"]),
        ("x.csv: file,spoken,notes/0_a.wav,a,zero", ["--column text=NAME"]),
        ('x.jsonl: {"audio": "0_a.wav", "label": "zero"}', ["x.jsonl:1", "no column 'text'", "--column text=label"]),
        ('x.jsonl: {"audio": 5, "text": "zero"}', ["x.jsonl:1", "audio is 5", "the path of a file"]),
        ('x.jsonl: {"audio": "0_a.wav", "text": 12}', ["x.jsonl:1", "text is 12", 'as "12" in quotes']),
        ('x.jsonl: {"audio": "0_a.wav", "text": "a", "language": 3}', ["x.jsonl:1", "language is 3", '"3" in quotes']),
        ('x.csv: file,text/"0_a.wav" , "zero"', ["x.csv:2", "is a quote missing?"]),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_with_what_it_lacks(tmp_path, table, said, capsys):
    corpus = digits(tmp_path / "corpus", table)
    assert main(["prep", "build", str(corpus / table.partition(":")[0]), str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert all(part in err for part in said) and err.count("\n") == 1 and not (tmp_path / "out").exists()
    if table.startswith("x.csv"):  # as the only table of a folder it is the same
        assert main(["prep", "build", str(corpus), str(tmp_path / "out")]) == 2
        err = capsys.readouterr().err
        assert all(part in err for part in said) and err.count("\n") == 1


def test_a_folder_that_is_no_corpus_yet_is_refused_with_what_to_add(tmp_path, capsys):
    def refused(path):
        assert main(["prep", "build", str(path), str(tmp_path / "out")]) == 2
        said = capsys.readouterr().err
        assert str(path) in said and said.count("\n") == 1 and not (tmp_path / "out").exists()
        return said

    (tmp_path / "empty").mkdir()
    assert "empty is empty" in refused(tmp_path / "empty")
    recordings = refused(digits(tmp_path / "recordings"))
    assert "0_a.txt beside 0_a.wav" in recordings and "recordings/metadata.csv" in recordings
    assert "file_name,text" in recordings and "prep build --help" in recordings
    (tmp_path / "deep").mkdir()
    deep = digits(tmp_path / "deep/lists", "a.csv: file,text/0_a.wav,zero", "b.csv: file,text/1_b.wav,one")
    assert f"as {deep / 'a.csv'}" in refused(tmp_path / "deep")
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone/b c.m4a").touch()
    assert "ffmpeg -i 'b c.m4a' -ar 16000 -ac 1 'b c.wav'" in refused(tmp_path / "phone")
    assert "ffmpeg -i 'b c.m4a' -ar 16000 -ac 1 'b c.wav'" in refused(tmp_path / "phone/b c.m4a")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("build digitz out", "there is no digitz; did you mean digits?"),
        ("build digits/trian.csv out", "there is no digits/trian.csv; did you mean digits/train.csv?"),
        ("build digitz/train.csv out", "there is no digitz/train.csv; did you mean digits/train.csv?"),
        ("build qqq/train.csv out", "there is no qqq/train.csv (the working folder has no qqq); give a corpus folder"),
        ("build digits/zz/x.csv out", "there is no digits/zz/x.csv (digits has no zz); give"),
        ("build link out", "there is no link (link is a link to nothing); give"),
        ("import folder digitz --out out", "there is no digitz; did you mean digits?"),
        ("index digitz out", "there is no digitz; did you mean digits?"),
        ("check digitz", "there is no digitz; did you mean digits?"),
        ("stats qqq", "there is no qqq; give a directory that `slam-asr prep build`"),
        ("features digitz out --encoder x", "there is no digitz; did you mean digits?"),
        ("sample digitz out", "there is no digitz; did you mean digits?"),
        ("reshard out digitz", "there is no digitz; did you mean digits?"),
        ("merge out digitz", "there is no digitz; did you mean digits?"),
        ("export digitz out --format nemo", "there is no digitz; did you mean digits?"),
        ("publish digitz s3://bucket/out", "there is no digitz; did you mean digits?"),
    ],
)
def test_a_path_that_does_not_exist_is_named_with_the_nearest_that_does(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    digits(Path("digits"), "train.csv: file,text/0_a.wav,zero")
    Path("link").symlink_to("nowhere")
    assert main(["prep", *arguments.split()]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and not Path("out").exists()


PHONE = {  # the beginnings of files that libsndfile cannot read
    "a.mp4": b"\0\0\0\x1cftypisom\0\0\2\0" + bytes(600),
    "b c.m4a": b"\0\0\0\x1cftypM4A \0\0\2\0" + bytes(600),
    "d.aac": bytes.fromhex("fff15080199ffcde0400006c") + bytes(600),
    "e.webm": b"\x1a\x45\xdf\xa3" + bytes(600),
    "f.wma": bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + bytes(600),
    "g.amr": b"#!AMR\n" + bytes(600),
}


def test_recordings_that_only_ffmpeg_reads_are_refused_with_the_command_that_converts_them(tmp_path, capsys):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    rows = []
    for name, data in PHONE.items():
        (corpus / name).write_bytes(data)
        rows.append(json.dumps({"audio": name, "text": "words"}) + "\n")
        with pytest.raises(AudioError) as refused:
            decode(corpus / name)
        stem = name.rpartition(".")[0]
        assert refused.value.reason == "needs-ffmpeg" and "\n" not in str(refused.value)
        command = ["ffmpeg", "-i", name, "-ar", "16000", "-ac", "1", f"{stem}.wav"]
        assert shlex.split(str(refused.value).partition("convert it: ")[2]) == command
    (corpus / "list.jsonl").write_text("".join(rows))
    for arguments in (["build", corpus, tmp_path / "out"], ["import", "auto", corpus, "--out", tmp_path / "out.jsonl"]):
        for most in ("0.01", "1"):
            assert main(["prep", *map(str, arguments), "--max-bad", most]) == 2
            last = capsys.readouterr().err.splitlines()[-1]
            assert "needs-ffmpeg 6" in last and "ffmpeg -i IN.mp4 -ar 16000 -ac 1 IN.wav" in last
    notes = (tmp_path / "out/quarantine.jsonl").read_text()
    assert notes.count('"needs-ffmpeg"') == 6 and "ffmpeg -i a.mp4 -ar 16000 -ac 1 a.wav" in notes


def test_counted_nouns_are_singular_for_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    digits(Path("corpus"), "train.csv: file,text,speaker/0_a.wav,zero,a")
    for command, counted in {
        "build corpus out": "1 utterance,",
        "import auto corpus --out out.jsonl": "1 row read",
        "sample out clips": "1 utterance,",
        "reshard again out": "1 utterance,",
        "export out kaldi --format kaldi": "1 utterance,",
    }.items():
        assert main(["prep", *command.split()]) == 0
        printed = capsys.readouterr().out
        assert counted in printed and not re.search(r"\b1 (utterances|shards|rows|recordings|speakers)", printed)
