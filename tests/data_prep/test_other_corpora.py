"""Corpora of other formats, read back: the same rows and the same samples, whatever lies around the recordings."""

import json
import sys
from decimal import Decimal

import numpy as np
import pyarrow
import pytest
from datasets import Audio, ClassLabel, Dataset, Features, Value
from pyarrow import parquet

from data_prep.audio.decode import AudioError, decode, encode_flac, write_flac
from data_prep.build.manifest import import_corpus
from data_prep.importers import recognised
from data_prep.importers.table import import_jsonl
from data_prep.recordings import parquet as parquet_module
from data_prep.recordings.parquet import RowGroups, recording_at
from data_prep.shards.opening import read_index
from data_prep.utterance import Utterance
from launch.command import main
from model.errors import UserError
from tests.data_prep.conftest import tone
from tests.data_prep.toolkits import heard, read, refused

RECORDING = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})


@pytest.fixture
def waves():
    return [tone(0.4 + 0.1 * number, 200 + 40 * number, number) for number in range(7)]


@pytest.fixture
def hub(tmp_path, waves):
    """A data set as Hugging Face's `datasets` writes it: data/train-00000-of-00001.parquet of three row groups."""
    rows = {
        "audio": [{"bytes": encode_flac(wave), "path": f"clip{number}.flac"} for number, wave in enumerate(waves)],
        "sentence": [f"größe {number}" for number in range(7)],
        "gender": [number % 2 for number in range(7)],
    }
    features = Features({"audio": Audio(16000), "sentence": Value("string"), "gender": ClassLabel(names=["f", "m"])})
    (tmp_path / "hub" / "data").mkdir(parents=True)
    data = Dataset.from_dict(
        rows, features=Features({**features, "audio": {"bytes": Value("binary"), "path": Value("string")}})
    )
    data.cast(features).to_parquet(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet", batch_size=3)
    return tmp_path / "hub"


def test_a_hub_data_set_is_read_row_by_row_from_its_row_groups(hub, waves):
    (path,) = (hub / "data").iterdir()
    assert parquet.ParquetFile(path).metadata.num_row_groups == 3 and recognised(hub)[0] == "parquet"
    utterances = read(hub)
    assert [(u.key, u.text) for u in utterances] == [(f"clip{n}", f"größe {n}") for n in range(7)]
    assert utterances[4].part == "row:4:audio" and utterances[4].meta == {"gender": "f", "split": "train"}
    for utterance, wave in zip(utterances, waves, strict=True):
        assert np.array_equal(heard(utterance), decode(encode_flac(wave)))
    with pytest.raises(AudioError, match="row 7 of a Parquet file of 7 rows"):
        recording_at(str(path), 7, "audio")


def test_row_groups_are_kept_up_to_a_bound(hub):
    (path,) = map(str, (hub / "data").iterdir())
    groups = RowGroups(max_bytes=1)
    for row in (0, 6, 0, 3):
        assert groups.value(path, row, "audio")["bytes"].as_py() == recording_at(path, row, "audio")
        assert len(groups._groups) == 1 and groups.bytes == next(iter(groups._groups.values())).nbytes


def test_a_parquet_file_of_any_hand(tmp_path, waves):
    write_flac(tmp_path / "beside.flac", waves[1])
    table = pyarrow.table(
        {
            "speech": pyarrow.array(
                [{"bytes": encode_flac(waves[0]), "path": "audio.flac"}, {"bytes": None, "path": "beside.flac"}, None],
                RECORDING,
            ),
            "words": ["zero", "one", "two"],
            "score": [0.5, float("nan"), None],
            "price": [Decimal("1.5")] * 3,
            "picture": [b"\xff"] * 3,
        }
    )
    path = tmp_path / "own.parquet"
    parquet.write_table(table, path)
    refused(r"own.parquet: no column 'text'.*there are: speech, words.*--column text=words", path)
    refused("no column 'worts' for text; did you mean 'words'", path, columns={"text": "worts"})
    inside, beside, none = read(path, columns={"text": "words"})
    assert np.array_equal(heard(inside), decode(encode_flac(waves[0])))
    assert (beside.audio, beside.part) == (str(tmp_path / "beside.flac"), "")
    assert (inside.key, inside.meta) == ("own-0", {"score": 0.5, "price": "1.5"}) and beside.meta["score"] is None
    with pytest.raises(AudioError, match="row 2 holds no bytes"):
        heard(none)
    paths = {"audio": [str(tmp_path / "beside.flac"), "gone.flac"], "text": ["a", "b"], "part": ["1", "2"]}
    parquet.write_table(pyarrow.table(paths), path)
    beside, gone = read(path)
    assert (beside.audio, beside.part, gone.audio) == (str(tmp_path / "beside.flac"), "", str(tmp_path / "gone.flac"))
    assert (gone.key, gone.meta) == ("gone", {"part": "2"})


def test_a_damaged_parquet_file_is_refused_and_never_misread(hub, waves):
    (path,) = (hub / "data").iterdir()
    sound, recordings = path.read_bytes(), [encode_flac(wave) for wave in waves]
    for place in range(0, len(sound), 997):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 0xFF]) + sound[place + 1 :])
        parquet_module._GROUPS = RowGroups()
        try:
            for row, recording in enumerate(recordings):
                assert len(recording_at(str(path), row, "audio")) == len(recording)  # content is FLAC's to check
        except AudioError as error:
            assert error.reason in ("unreadable", "damaged", "bad-part", "missing-audio")
    path.write_bytes(sound[:-9])
    refused("cannot read .*parquet: no Parquet file", path)


@pytest.mark.parametrize("features", ['{"gender": {"names": 5}}', '{"gender": {"names": [1]}}', "[" * 100_000])
def test_odd_metadata_of_a_parquet_file_are_passed_over(hub, features):
    (path,) = (hub / "data").iterdir()
    table = parquet.read_table(path)
    written = {b"huggingface": f'{{"info": {{"features": {features}}}}}'.encode()}
    parquet.write_table(table.replace_schema_metadata(written), path)
    assert [utterance.meta["gender"] for utterance in read(hub)] == [0, 1, 0, 1, 0, 1, 0]


def test_without_pyarrow_parquet_is_refused_in_one_line(hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match='install it: pip install "slam-asr\\[parquet\\]"'):
        read(hub)


def test_several_splits_are_not_mixed_unasked(tmp_path, waves):
    row = {"audio": [{"bytes": encode_flac(waves[0]), "path": None}], "text": ["a"]}
    for name in ("data/test-00000-of-00001", "data/train-00000-of-00002", "data/train-00001-of-00002"):
        (tmp_path / "data").mkdir(exist_ok=True)
        parquet.write_table(pyarrow.table(row), tmp_path / f"{name}.parquet")
    refused("test, train; .*--subset", tmp_path)
    refused("has no split 'trian'; did you mean 'train'", tmp_path, split="trian")
    assert [u.key for u in read(tmp_path, split="train")] == ["train-00000-of-00002-0", "train-00001-of-00002-0"]
    assert len(read(tmp_path, split="*")) == 3


def test_audiofolder_common_voice_and_ljspeech(tmp_path, waves):
    for folder in ("af/train", "af/test", "cv/clips", "lj/wavs"):
        (tmp_path / folder).mkdir(parents=True)
    write_flac(tmp_path / "af/train/x.flac", waves[0])
    (tmp_path / "af/train/metadata.jsonl").write_text('{"file_name": "x.flac", "transcription": "x", "age": 5}\n')
    (tmp_path / "af/test/metadata.csv").write_text('file_name,text\ny.flac,"he said ""y"", twice"\n')
    (x,) = read(tmp_path / "af", split="train")
    assert x == Utterance("x", str(tmp_path / "af/train/x.flac"), "x", meta={"age": 5, "split": "train"})
    assert read(tmp_path / "af", split="test")[0].text == 'he said "y", twice'
    header = "client_id\tpath\tsentence\tup_votes\tlocale\n"
    (tmp_path / "cv/train.tsv").write_text(header + 'c1\tcommon_voice_de_1.mp3\t"Größe", sagt er.\t2\tde\n')
    (tmp_path / "cv/dev.tsv").write_text(header)
    (clip,) = read(tmp_path / "cv")
    assert (clip.key, clip.text) == ("common_voice_de_1", '"Größe", sagt er.')
    assert (clip.speaker, clip.language, clip.meta) == ("c1", "de", {"up_votes": "2", "split": "train"})
    assert clip.audio == str(tmp_path / "cv/clips/common_voice_de_1.mp3")
    for split, message in (("tran", "no tran.tsv; did you mean 'train'"), ("dev", "dev.tsv has no rows")):
        with pytest.raises(UserError, match=message):
            read(tmp_path / "cv", split=split)
    (tmp_path / "lj/metadata.csv").write_text('LJ001-0001|Dr. "A", 2|Doctor "A", two\nLJ001-0002|one text\n')
    first, second = read(tmp_path / "lj")
    assert (first.key, first.text, first.meta) == ("LJ001-0001", 'Doctor "A", two', {"raw": 'Dr. "A", 2'})
    assert second.text == "one text" and second.audio == str(tmp_path / "lj/wavs/LJ001-0002.wav")


def test_tables_of_any_delimiter_and_column(tmp_path):
    (tmp_path / "a.csv").write_text("﻿datei;satz;von;speaker\nx/1.wav;'a;7;1.5\n", encoding="utf-8")
    columns = {"audio": "datei", "text": "satz", "start": "von"}
    (row,) = read(tmp_path / "a.csv", columns=columns, audio_root=tmp_path / "sound")
    assert (row.audio, row.text, row.start) == (str(tmp_path / "sound/x/1.wav"), "'a", 7.0) and row.speaker == "1.5"
    (tmp_path / "b.tsv").write_text('path\tsentence\tnote\na.wav\t"two\nlines"\tn\n')
    assert read(tmp_path / "b.tsv")[0] == Utterance("a", str(tmp_path / "a.wav"), "two\nlines", meta={"note": "n"})


def test_a_parquet_file_of_cut_recordings_is_not_cut_again(tmp_path, waves):
    row = {"audio": [{"bytes": encode_flac(waves[0]), "path": "a.flac"}], "text": ["a"], "begin_time": [0.1]}
    parquet.write_table(pyarrow.table({**row, "end_time": [0.3]}), tmp_path / "a.parquet")
    (one,) = read(tmp_path / "a.parquet")
    assert one.start is None and one.meta == {"begin_time": 0.1, "end_time": 0.3}
    (cut,) = read(tmp_path / "a.parquet", columns={"start": "begin_time", "end": "end_time"})
    assert (cut.start, cut.duration) == (0.1, 0.2)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"audio,text\na.wav,caf\xe9\n", r":2: it is not UTF-8 \(byte 10 is 0xe9\)"),
        (b"audio,words\na.wav,a\n", r":1: no column 'text'.*there are: audio, words; say which: --column text=words"),
        (b"audio,text\na.wav,a,b\n", ":2: 3 values, the header names 2 columns"),
        (b"audio,text,audio\n", ":1: column 'audio' is there twice"),
        (b'audio,text\na.wav,"a\n', ":2: .*is a quote missing"),
        (b"audio,text,start\na.wav,a,soon\n", ":2: start is 'soon', it must be seconds"),
        (b"audio,text\ncat a.wav |,a\n", ":2: .*command or an address"),
        (b"audio,text\n", "no rows below its line of column names"),
    ],
)
def test_a_bad_table_is_refused_with_file_and_line(tmp_path, table, message):
    (tmp_path / "t.csv").write_bytes(table)
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path / "t.csv")
    assert str(error.value).startswith(str(tmp_path / "t.csv")) and "\n" not in str(error.value)


def test_the_import_keeps_the_order_and_quarantines_by_reason(tmp_path, corpus):
    rows = [{"audio": u.audio, "text": u.text, "key": u.key} for u in corpus * 20]
    rows = [{**row, "key": f"{row['key']}-{number}"} for number, row in enumerate(rows)]
    rows[5]["text"], rows[6]["text"], rows[7]["audio"] = "a\0b", "a\x1bb", "/nowhere.flac"
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report = import_corpus(read(tmp_path / "m.jsonl"), tmp_path / "out.jsonl", max_bad=0.1)
    assert report.dropped == {"bad-text": 2, "missing-audio": 1} and report.read == 240
    assert [u.key for u in import_jsonl(tmp_path / "out.jsonl")] == [
        r["key"] for n, r in enumerate(rows) if n not in (5, 6, 7)
    ]
    notes = [json.loads(line) for line in (tmp_path / "out.quarantine.jsonl").read_text().splitlines()]
    assert sorted(note["key"] for note in notes) == sorted(rows[number]["key"] for number in (5, 6, 7))
    gone = [Utterance(f"k{number}", f"/nowhere/{number}.wav", "a") for number in range(5000)]
    with pytest.raises(UserError, match=r"1,000 bad .*missing-audio 1,000.* --audio-root"):
        import_corpus(gone, tmp_path / "gone.jsonl", max_bad=1.0)


def test_import_and_build_from_the_command_line(tmp_path, hub, waves, capsys):
    manifest, out = tmp_path / "m" / "utterances.jsonl", tmp_path / "shards"
    options = ["--language", "de", "--speaker", "s1", "--task", "translate", "--column", "key="]
    assert main(["prep", "import", "auto", str(hub), "--out", str(manifest), *options]) == 0
    told = capsys.readouterr().out
    assert "7 rows read, 7 kept, dropped: none" in told and "clip0  0.40 s  speaker s1" in told
    assert "größe 2" in told and "größe 3" not in told
    assert main(["prep", "build", str(manifest), str(out), "--shard-size", "4", "--workers", "1"]) == 0
    index = read_index(out)
    by_key = {f"clip{number}": wave for number, wave in enumerate(waves)}
    assert sorted(index.key) == sorted(by_key)
    from tests.data_prep.reading import read_utterance

    for i in range(len(index)):
        utterance = read_utterance(index, i)
        assert (utterance.language, utterance.speaker, utterance.task) == ("de", "s1", "translate")
        assert np.array_equal(heard(utterance), decode(encode_flac(by_key[utterance.key])))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--column", "txt=a"], "no field 'txt'; did you mean 'text'"),
        (["--column", "text"], "is not FIELD=NAME"),
        (["--column", "text=a", "--column", "text=b"], "given twice"),
        (["--audio-root", "nowhere"], "there is no folder nowhere"),
        (["--max-bad", "7"], "it is a fraction from 0 to 1"),
    ],
)
def test_a_mistaken_option_is_one_line(tmp_path, hub, options, message, capsys):
    assert main(["prep", "import", "parquet", str(hub), "--out", str(tmp_path / "u.jsonl"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "u.jsonl").exists()


def test_an_option_that_the_importer_would_ignore_is_refused(tmp_path, capsys):
    (tmp_path / "m.jsonl").write_text('{"audio": "a.wav", "text": "a"}')
    assert main(["prep", "import", "auto", str(tmp_path / "m.jsonl"), "--out", "u.jsonl", "--subset", "dev"]) == 2
    assert "--subset means nothing to the importer jsonl" in capsys.readouterr().err
