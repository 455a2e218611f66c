"""Corpora as NeMo, SLAM-LLM and WeNet keep them: every form they are found in, and what must be refused."""

import json
import tarfile
from pathlib import Path

import pytest

from data_prep.audio.decode import write_flac
from data_prep.build.build import BuildOptions, build
from data_prep.importers import IMPORTERS, ImportOptions
from data_prep.shards.opening import read_index
from model.errors import UserError
from tests.data_prep.conftest import tone
from tests.data_prep.toolkits import heard, read, refused, wav_of, write_lines, write_tar

SPEECH = Path(__file__).parents[3] / "shared" / "speech"


def nemo_rows(prefix=""):
    return [
        {"audio_filepath": f"{prefix}a/one.flac", "duration": 0.5, "text": "whole", "lang": "en", "label": "x"},
        {"audio_filepath": f"{prefix}b/two.flac", "duration": 0.2, "offset": 0.1, "text": "cut", "speaker": 7},
        {"audio_filepath": f"{prefix}b/two.flac", "duration": 0.3, "offset": 0, "text": "another", "speaker": 7},
        {"audio_filepath": f"{prefix}a/same.flac", "duration": 0.7, "text": None, "meta": {"x": 1}},
        {"audio_filepath": f"{prefix}b/same.flac", "duration": 0.8, "text": "clash", "task": "translate"},
        {"audio_filepath": f"{prefix}b/key.flac", "duration": 0.9, "offset": 0, "text": "own", "utt_id": "own-1"},
    ]


@pytest.fixture
def nemo(tmp_path):
    """The same rows as nemo_rows(), by files (manifest.json) and by two tars (tarred/)."""
    for number, name in enumerate(dict.fromkeys(row["audio_filepath"] for row in nemo_rows())):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_flac(tmp_path / name, tone(0.5 + 0.1 * number, 200, number))
    write_lines(tmp_path / "manifest.json", nemo_rows())
    (tmp_path / "tarred").mkdir()
    for shard in range(2):
        with tarfile.open(tmp_path / "tarred" / f"audio_{shard}.tar", "w") as tar:
            for name in dict.fromkeys(row["audio_filepath"] for row in nemo_rows()[shard * 3 : shard * 3 + 3]):
                tar.add(tmp_path / name, name.replace("/", "_"))
    rows = [row | {"shard_id": number // 3} for number, row in enumerate(nemo_rows())]
    rows[2]["audio_filepath"] = "b/two-sub1.flac"  # as its converter names a second cut
    write_lines(tmp_path / "tarred" / "tarred_audio_manifest.json", rows)
    return tmp_path


def test_nemo_by_files_and_by_tars_is_the_same(nemo):
    files, tars = read(nemo / "manifest.json"), read(nemo / "tarred")
    keys = ["one", "two-100-300", "two-0-300", "a_same_flac", "b_same_flac", "own-1"]
    assert [utterance.key for utterance in files] == keys
    assert [(u.start, u.duration) for u in files[:3]] == [(None, 0.5), (0.1, 0.2), (0, 0.3)]
    assert files[0].meta == {"label": "x"} and files[0].language == "en" and files[1].speaker == "7"
    assert files[3].meta == {"x": 1, "id": "a/same.flac"} and files[3].text is None and files[4].task == "translate"
    for one, other in zip(files, tars, strict=True):
        for field in ("key", "text", "language", "speaker", "task", "meta", "start", "duration"):
            assert getattr(one, field) == getattr(other, field), (one.key, field)
        assert (heard(one) == heard(other)).all() and other.part.startswith("bytes:")
    for name, utterances in (("f", files), ("t", tars)):
        build(utterances, nemo / name, BuildOptions(max_bad=0.5))
    assert read_index(nemo / "f").digest() == read_index(nemo / "t").digest() and len(read_index(nemo / "f")) == 5


def test_nemo_sets_in_other_places(nemo):
    (nemo / "lists").mkdir()
    listed = write_lines(nemo / "lists" / "manifest.json", nemo_rows("/elsewhere/"))
    refused("manifest.json:1: there is no /elsewhere/a/one.flac.*--audio-root", listed)
    write_lines(listed, nemo_rows())
    assert len(read(listed, audio_root=nemo)) == 6
    sharded = nemo / "tarred" / "sharded_manifests"
    sharded.mkdir()
    rows = (nemo / "tarred" / "tarred_audio_manifest.json").read_text().splitlines()
    for shard in range(2):
        write_lines(sharded / f"manifest_{shard}.json", rows[shard * 3 : shard * 3 + 3])
    whole = read(nemo / "tarred")
    (nemo / "tarred" / "tarred_audio_manifest.json").unlink()
    assert read(nemo / "tarred") == whole
    assert [u.text for u in read(nemo / "manifest.json", columns={"text": "audio_filepath"})][0] == "a/one.flac"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shard_id": 7}, "json:1: shard_id is 7,"),
        ({"shard_id": "0"}, "json:1: shard_id is '0'"),
        ({"audio_filepath": "a/three.flac"}, r"json:1: .*audio_0.tar has no member 'a/three.flac'"),
        ({"audio_filepath": None}, "json:1: audio_filepath is 'None'"),
        ({"text": ..., "transcript": "x"}, r"json:1: no field 'text', there are: .*transcript.* --column text=NAME"),
        ({"audio_filepath": ["a", "b"]}, "json:1: audio_filepath is "),
        ({"offset": -1}, "json:1: utterance one: start is -1"),
        ({"utt_id": "own-1"}, "key own-1 is there twice"),
    ],
)
def test_a_faulty_nemo_row_is_refused_with_file_and_line(nemo, change, message):
    path = nemo / "tarred" / "tarred_audio_manifest.json"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    first = {name: value for name, value in (rows[0] | change).items() if value is not ...}
    write_lines(path, [first, *rows[1:]])
    with pytest.raises(UserError, match=message):
        build(IMPORTERS["nemo"].read(path, ImportOptions()), nemo / "out", BuildOptions(max_bad=0.5))


def test_slam_llm_of_both_kinds(tmp_path):
    write_flac(tmp_path / "a.flac", tone(0.3))
    (tmp_path / "b.ark").write_bytes(b"b " + wav_of(tone(0.4, seed=1)))
    plain = write_lines(tmp_path / "plain.jsonl", [{"key": "a.1", "source": "a.flac", "target": "eins", "x": 1}])
    assert read(plain)[0].meta == {"x": 1, "id": "a.1"} and read(plain)[0].text == "eins"
    write_lines(
        tmp_path / "multitask.jsonl",
        [
            {"key": "a", "task": "ASR", "target": "one", "path": "a.flac"},
            {"key": "b", "task": "AST", "target": "deux", "path": "b.ark:2", "prompt": "own {}"},
            {"key": "c", "task": "AST", "target": "trois", "path": "a.flac", "source": "other"},
        ],
    )
    prompts = [{"task": "ASR", "prompt": "say"}, {"task": "AST", "prompt": "p"}, {"task": "AST", "prompt": "q"}]
    write_lines(tmp_path / "multiprompt.jsonl", prompts)
    a, b, c = read(tmp_path)
    assert (a.task, a.meta) == ("transcribe", {"task": "ASR", "prompt": "say"})
    assert (b.task, b.meta, b.text) == ("AST", {"prompt": "own {}"}, "deux") and len(heard(b)) == 6400
    assert c.meta["prompt"] == ["p", "q"] and c.audio == str(tmp_path / "other")
    for row, message in [
        ({"key": "a", "target": "x"}, "audio is ''"),
        ({"source": "a.flac", "target": "x"}, "no field 'key'"),
        ({"key": "a", "source": "gone.flac", "target": "x"}, "there is no .*gone.flac"),
        ({"key": "a", "source": "cat a |", "target": "x"}, "'cat a' is a command"),
    ]:
        with pytest.raises(UserError, match=f"plain.jsonl:1: {message}"):
            list(IMPORTERS["slam_llm"].read(write_lines(plain, [row]), ImportOptions()))


def test_wenet_lists_and_tars(tmp_path):
    write_flac(tmp_path / "a.flac", tone(1.0))
    rows = [
        {"key": "a/1", "wav": "a.flac", "txt": "你好", "lang": "zh"},
        {"key": "b", "wav": "a.flac", "txt": "cut", "start": 0.1, "end": 0.4},
        {"key": "c", "wav": "a.flac", "txt": "rest", "start": 0.5, "end": -1},
    ]
    one, cut, rest = read(write_lines(tmp_path / "data.list", rows))
    assert (one.key, one.text, one.language, one.meta) == ("a_1", "你好", "zh", {"id": "a/1"})
    assert (cut.start, cut.duration) == (0.1, 0.3) and (rest.start, rest.duration) == (0.5, None)
    tars = tmp_path / "tars"
    tars.mkdir()
    for number in range(2):
        parts = {"x.1.txt": "你好".encode(), "x.1.wav": wav_of(tone(0.3, seed=number)), "y.wav": wav_of(tone(0.4))}
        write_tar(tars / f"shards_{number}.tar", ((f"{number}{name}", data) for name, data in parts.items()))
    listed = write_lines(tmp_path / "shards.list", ["tars/shards_1.tar", str(tars / "shards_0.tar")])
    utterances = read(listed)
    assert [u.key for u in utterances] == ["1x_1", "1y", "0x_1", "0y"] and utterances[0].text == "你好"
    assert utterances[1].text is None and len(heard(utterances[0])) == 4800
    by_folder = list(IMPORTERS["wenet"].read(tars, ImportOptions()))
    assert sorted(u.key for u in by_folder) == ["0x_1", "0y", "1x_1", "1y"]
    for lines, message in [
        (["tars/shards_9.tar"], "there is no .*shards_9.tar"),
        (["tars/shards_0.tar", "curl x |"], "shards.list:2: .* is no tar"),
        (["../shards_0.tar"], "shards.list:1: .* leaves the manifest's folder"),
        ([{"key": "a", "wav": "a.flac"}], "shards.list:1: no field 'txt'.*--column text=NAME"),
        ([{"key": "a", "wav": "a.flac", "txt": "x", "start": 2, "end": 1}], "shards.list:1: a cut from 2 to 1"),
    ]:
        with pytest.raises(UserError, match=message):
            list(IMPORTERS["wenet"].read(write_lines(listed, lines), ImportOptions()))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.txt": b"x"}, "a has txt"),
        ({"a.txt": b"\xe9", "a.wav": b"x"}, "a.txt: it is not UTF-8"),
        ({"a.wav": b"x", "a.flac": b"x"}, "member 'a.flac' .*second"),
        ({"a": b"x"}, "member 'a' has no extension"),
        ({"a.wav": b"x", "a.json": b"{"}, "a.json is no JSON"),
        ({"a.wav": b"x", "a.json": b'{"meta": {}, "speaker": 5}'}, "speaker is 5"),
        ({"../a.wav": b"x"}, "leads out of the tar"),
    ],
)
def test_a_faulty_wenet_tar_is_refused_by_name(tmp_path, members, message):
    write_tar(tmp_path / "shards_0.tar", members.items())
    with pytest.raises(UserError, match=rf"shards_0.tar: .*{message}"):
        list(IMPORTERS["wenet"].read(tmp_path, ImportOptions()))


@pytest.mark.skipif(not SPEECH.is_dir(), reason="needs ../shared/speech")
def test_real_an4_by_nemo_manifest_tar_and_kaldi(tmp_path):
    an4 = SPEECH / "an4"
    refused("an4_train.json:1: there is no .*an46-mmap-b.wav.*--audio-root", an4 / "an4_train.json")
    refused("kaldi_an4 .*wav.scp", an4 / "kaldi_an4")
    cuts = read(an4 / "nemo_tarred" / "tarred_duplicate_audio_manifest.json")
    assert [cut.key.rpartition("_")[2] for cut in cuts[:2]] == ["an251-fash-b-500-1000", "an251-fash-b-400-900"]
    tars = read(an4 / "nemo_tarred")
    with (
        tarfile.open(an4 / "nemo_tarred" / "audio_0.tar") as one,
        tarfile.open(an4 / "nemo_tarred" / "audio_1.tar") as two,
    ):
        for tar in (one, two):
            tar.extractall(tmp_path / "wav", filter="data")
    rows = [json.loads(line) for line in (an4 / "nemo_tarred" / "tarred_audio_manifest.json").read_text().splitlines()]
    rows = [row | {"audio_filepath": f"wav/{row['audio_filepath']}"} for row in rows]
    files = read(write_lines(tmp_path / "m.json", [{n: row[n] for n in row if n != "shard_id"} for row in rows]))
    for name, utterances in (("f", files), ("t", tars)):
        build(utterances, tmp_path / name, BuildOptions())
    assert read_index(tmp_path / "f").digest() == read_index(tmp_path / "t").digest() and len(tars) == 32
