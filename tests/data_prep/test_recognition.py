"""What a newcomer gives the importers: any path, any names of columns, folders with something missing."""

import os
import re
from pathlib import Path

import pytest

from data_prep.audio.decode import write_flac
from data_prep.build.build import BuildOptions, build
from data_prep.build.manifest import import_corpus
from data_prep.importers import IMPORTERS, ImportOptions, recognised
from data_prep.utterance import Utterance
from launch.command import main
from model.errors import UserError
from tests.data_prep.conftest import tone
from tests.data_prep.toolkits import read, refused, write_lines


def manifest(tmp_path, *rows):
    return write_lines(tmp_path / "manifest.jsonl", rows)


def test_the_build_counts_a_missing_recording_and_the_importer_reports_one_without_transcript(tree, tmp_path, capsys):
    lj, kaldi, af, plain = (tmp_path / name for name in ("lj", "kaldi", "af", "plain"))
    for folder, names in ((lj / "wavs", "ac"), (kaldi, "ac"), (af, "ac"), (plain / "x", "ac")):
        folder.mkdir(parents=True)
        for name in names:
            write_flac(folder / f"{name}.flac", tone(0.3))
    for name in "ac":
        (lj / "wavs" / f"{name}.flac").rename(lj / "wavs" / f"{name}.wav")
    (lj / "metadata.csv").write_text("a|A\nb|B\n")
    (kaldi / "wav.scp").write_text("a a.flac\nc c.flac\n")
    (kaldi / "text").write_text("a A\nb B\n")
    (af / "metadata.csv").write_text("file_name,text\na.flac,A\nb.flac,B\n")
    (plain / "x" / "a.txt").write_text("\ufeffA\n", "utf-8")
    (tree / "84-121123-0001.flac").rename(tree / "84-121123-0002.flac")
    for corpus in (tree, lj, kaldi):
        found = list(IMPORTERS[recognised(corpus)[0]].read(corpus, ImportOptions()))
        told = capsys.readouterr().err
        assert re.match("1 recording", told) and told.count("\n") == 1
        assert re.search(r"(c\.\w+|c|0002\.flac) first$", told.strip())
        report = import_corpus(found, tmp_path / "out.jsonl", max_bad=0.5)
        capsys.readouterr()
        assert (report.kept, report.dropped) == (1, {"missing-audio": 1})
    rooted = ImportOptions(audio_root=af)  # such a folder may hold what other manifests name
    assert len(list(IMPORTERS["audiofolder"].read(af, rooted))) == 2
    assert "1 recording has no row in" in capsys.readouterr().err
    assert recognised(tmp_path / "plain") == ("folder", plain)
    first, second = IMPORTERS["folder"].read(plain, ImportOptions())
    assert first == Utterance("a", str(plain / "x/a.flac"), "A")
    assert second.key == "c" and second.part.startswith("fault:no-transcript:")


@pytest.mark.parametrize("kind", ["folder", "audiofolder"])
def test_recordings_without_a_transcript_count_as_bad(tmp_path, kind, capsys):
    folder, out, listed = tmp_path / "corpus", tmp_path / "out", tmp_path / "listed.jsonl"
    folder.mkdir()
    for name in "abcd":
        write_flac(folder / f"{name}.flac", tone(0.3))
    for name in "abc" if kind == "folder" else ():
        (folder / f"{name}.txt").write_text("words")
    if kind == "audiofolder":
        (folder / "metadata.csv").write_text("file_name,text,speaker\na.flac,A,x\nb.flac,B,y\nc.flac,C,z\n")
    for arguments in (["build", str(folder), str(out)], ["import", "auto", str(folder), "--out", str(listed)]):
        assert main(["prep", *arguments]) == 2
        said = capsys.readouterr().err
        assert all(part in said for part in ("1 of 4", "no-transcript 1", "--max-bad 0.01 allows 0"))
        assert main(["prep", *arguments, "--max-bad", "0.25"]) == 0
        assert "no-transcript 1" in capsys.readouterr().out
    notes = (out / "quarantine.jsonl").read_text() + (tmp_path / "listed.quarantine.jsonl").read_text()
    assert notes.count(str(folder / "d.flac")) == 2 and notes.count("no-transcript") == 2
    if kind == "audiofolder":  # whose speaker nobody said
        parts = ["--split", "train=0.7,dev=0.3", "--seed", "1", "--max-bad", "0.5"]
        assert main(["prep", "build", str(folder), str(tmp_path / "parts"), *parts]) == 0


def test_a_plain_folder_of_recordings_and_transcripts(tmp_path, capsys):
    for name in ("one/a", "two/a", "two/b.c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_flac(tmp_path / f"{name}.flac", tone(0.3))
    (tmp_path / "one/a.txt").write_text("first")
    (tmp_path / "two/a.lab").write_text("second")
    for kind in ("txt", "normalized.txt", "original.txt"):
        (tmp_path / f"two/b.c.{kind}").write_text(kind)
    (tmp_path / "README.txt").write_text("about")
    (tmp_path / "speakers.tsv").write_text("name\tsex\na\tF\n")
    name, path = recognised(tmp_path)
    assert name == "folder"
    found = list(IMPORTERS[name].read(path, ImportOptions()))
    assert [(one.key, one.text) for one in found] == [
        ("one_a_flac", "first"),
        ("two_a_flac", "second"),
        ("b_c", "normalized.txt"),
    ]
    assert capsys.readouterr().err == f"1 transcript has no recording, {tmp_path / 'README.txt'} first\n"
    (tmp_path / "two/a.wav").touch()
    with pytest.raises(UserError, match="a.flac and a.wav"):
        list(IMPORTERS[name].read(path, ImportOptions()))


@pytest.mark.parametrize(
    ("row", "start", "duration"),
    [
        ({"start": 1.1, "end": 1.4}, 1.1, 0.3),
        ({"begin_time": 1, "end_time": 2.5}, 1, 1.5),
        ({"end": 2}, 0.0, 2),
        ({"offset": 1, "dur": 2}, 1, 2),
        ({"start": 1, "end": 2.5, "duration": 1.49}, 1, 1.5),
        ({"start": 1, "end": None}, 1, None),
        ({"von": 1, "bis": 2}, 1, 1),
    ],
)
def test_a_cut_by_start_and_end_is_exact(tmp_path, row, start, duration):
    columns = {"start": "von", "end": "bis"} if "von" in row else {}
    row = {"audio": "a.wav", "text": "a", **row}
    (one,) = IMPORTERS["jsonl"].read(manifest(tmp_path, row), ImportOptions(columns=columns))
    assert (one.start, one.duration, dict(one.meta)) == (start, duration, {})
    written = {name: "" if value is None else str(value) for name, value in row.items()}
    (tmp_path / "m.csv").write_text(f"{','.join(written)}\n{','.join(written.values())}\n")
    (two,) = IMPORTERS["table"].read(tmp_path / "m.csv", ImportOptions(columns=columns))
    assert (two.start, two.duration) == (start, duration)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"start": 2, "end": 1}, ".* from 2 to 1"),
        ({"start": 1, "end": "2"}, ".* from 1 to 2"),
        ({"start": 1, "end": 2, "duration": 5.5}, ".*5.5.* from 1 to 2 s .*--column duration="),
        ({"start_ms": 10, "end_ms": 20}, ".*'start_ms'.*--column start=start_ms"),
        ({"start": 1, "endTime": 20}, ".*'endTime'.*--column end="),
    ],
)
def test_a_cut_that_is_not_understood_is_refused(tmp_path, row, message):
    path = manifest(tmp_path, {"audio": "a.wav", "text": "a", **row})
    with pytest.raises(UserError, match=f"manifest.jsonl:1: {message}"):
        list(IMPORTERS["jsonl"].read(path, ImportOptions()))
    if "--column start" in message or "--column end" in message:
        options = ImportOptions(columns={"start": "", "end": ""})
        assert next(IMPORTERS["jsonl"].read(path, options)).start is None


def test_keys_do_not_depend_on_where_the_corpus_is_mounted(tmp_path):
    def keys(*names, **options):
        rows = ({"audio": name, "text": "a"} for name in names)
        return [one.key for one in IMPORTERS["jsonl"].read(manifest(tmp_path, *rows), ImportOptions(**options))]

    assert keys("/mnt/x/a.wav", "/mnt/y/b.wav", "c/d.wav") == ["a", "b", "d"]
    assert keys("x/a.wav", "y/a.wav", "b.wav") == ["x_a_wav", "y_a_wav", "b"]
    assert keys(str(tmp_path / "x/a.wav"), "y/a.wav") == ["x_a_wav", "y_a_wav"]
    for root in ("/mnt/one", "/data/two/three", "s3://bucket/speech"):
        assert keys(f"{root}/x/a.wav", f"{root}/y/z/a.wav", f"{root}/b.wav") == ["x_a_wav", "y_z_a_wav", "b"]


def test_a_folder_is_recognised_by_its_files_or_refused_with_what_to_give(tmp_path, tree, corpus):
    def folder(name, *files):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).parent.mkdir(exist_ok=True)
            (tmp_path / name / file).write_text('{"audio_filepath": "a.wav", "text": "a"}\n')
        return tmp_path / name

    assert recognised(folder("nemo", "manifest.json", "x/1.tar")) == ("nemo", tmp_path / "nemo/manifest.json")
    assert recognised(folder("deep", "x/1.tar", "notes.json.txt")) == ("webdataset", tmp_path / "deep")
    assert recognised(folder("hub", "en/a.parquet")) == ("parquet", tmp_path / "hub")
    (tmp_path / "wenet").mkdir()
    (tmp_path / "wenet/data.list").write_text('{"key": "a", "wav": "a.wav", "txt": "a"}\n')
    assert recognised(tmp_path / "wenet") == ("wenet", tmp_path / "wenet/data.list")
    (folder("cv", "de/train.tsv") / "de/clips").mkdir()
    assert recognised(tmp_path / "cv/de/train.tsv") == ("common_voice", tmp_path / "cv/de/train.tsv")
    build(corpus[:2], tmp_path / "shards", BuildOptions(max_bad=1))
    (folder("kaldi", "wav.scp") / "text").write_text("a words\n")
    for path, message in (
        (folder("two", "train.json", "dev.json", "x/1.tar"), "two holds .*dev.json, train.json.*two/dev.json"),
        (folder("one", "train.jsonl"), "one holds .*train.jsonl.*one/train.jsonl"),
        (folder("none", "x.txt"), "none .*--importer"),
        (tmp_path / "cv", r"cv .*\(de\).*cv/de"),
        (tmp_path / "shards", "shards .*slam-asr prep reshard"),
        (next(tree.glob("*.flac")), "flac is one recording"),
        (folder("packed", "a.tar.gz") / "a.tar.gz", "a.tar.gz .*unpack"),
        (tmp_path / "kaldi/text", "kaldi/text .*Kaldi"),
    ):
        with pytest.raises(UserError, match=message):
            recognised(path)


def test_a_folder_that_cannot_be_read_is_an_error_and_a_circle_of_links_is_none(tree, monkeypatch):
    (tree / "around").symlink_to(tree.parents[2], target_is_directory=True)
    assert len(list(IMPORTERS["librispeech"].read(tree.parents[2], ImportOptions()))) == 2
    scandir = os.scandir

    def denied(path):
        if os.fspath(path).endswith("121123"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(UserError, match="121123: Permission denied"):
        list(IMPORTERS["librispeech"].read(tree.parents[2], ImportOptions()))


def test_the_command_prints_the_importer_and_stops_where_no_recording_exists(tmp_path, corpus, capsys):
    rows = [{"audio": one.audio, "text": one.text} for one in corpus]
    out = ["--out", str(tmp_path / "out.jsonl"), "--max-bad", "0.5"]
    arguments = ["prep", "import", "auto", str(tmp_path / "manifest.jsonl"), *out]
    manifest(tmp_path, {"audio": "gone.wav", "text": "a"}, *rows)  # one is the build's to count, the first too
    assert main(arguments) == 0
    assert capsys.readouterr().err.startswith("read as jsonl\n")
    manifest(tmp_path, *({"audio": f"/x/{number}.wav", "text": "a"} for number in range(50)), *rows)
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert "/x/0.wav" in told and " 10 recordings" in told and "--audio-root" in told


@pytest.mark.parametrize("rows", ['a.wav\t"Größe", sagt er.\n', 'a.wav\t"Größe sagt er\nb.wav\tdass "sie"\n'])
def test_a_tsv_without_quoting_is_read_as_it_stands(tmp_path, rows, capsys):
    (tmp_path / "a.tsv").write_text(f"path\tsentence\n{rows}")
    assert [f"{Path(row.audio).name}\t{row.text}\n" for row in read(tmp_path / "a.tsv")] == rows.splitlines(True)
    assert "a.tsv: quotes are read as characters: line 2 would be no row" in capsys.readouterr().err


def test_one_file_of_common_voice_is_a_split(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "dev.tsv").write_text('client_id\tpath\tsentence\nc1\ta.mp3\t"Größe", sagt er.\n')
    (clip,) = read(tmp_path / "dev.tsv")
    assert (clip.audio, clip.meta) == (str(tmp_path / "clips/a.mp3"), {"split": "dev"})
    refused("dev.tsv .*--subset asks for train", tmp_path / "dev.tsv", split="train")
