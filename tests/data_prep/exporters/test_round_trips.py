"""Shards to another toolkit's dataset, read back and built again: the same utterances, the same FLAC bytes."""

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.audio.decode import decode
from data_prep.build.build import BuildOptions, build
from data_prep.build.prepare import Limits
from data_prep.exporters import EXPORTERS, export
from data_prep.importers import IMPORTERS, ImportOptions, recognised
from data_prep.importers.table import import_jsonl
from data_prep.recordings.open import open_source, read_all
from data_prep.shards.index import write_index
from data_prep.shards.opening import read_index, shard_path
from data_prep.shards.tar import ShardWriter, read_sample
from data_prep.utterance import write_jsonl
from launch.command import main
from model.errors import UserError

SPEECH = Path(__file__).parents[4] / "shared" / "speech"
ODD_META = {
    "id": "x y",
    "task": "raw",
    "meta": {"text": "inner"},
    "duration": 7,
    "line\n": ["\u2028", None, 1.5],
    "key": 3,
}

BUILD = BuildOptions(shard_size=5, limits=Limits(allow_empty=True))


@pytest.fixture
def shards(tmp_path, corpus):
    """Twelve utterances in three shards, one with everything that a format may stumble on, one with nothing, one in
    which nothing is said."""
    corpus[0] = replace(
        corpus[0],
        text='a "quoted" \u3000 text, \\ and | too',
        language="zh Hant",
        speaker="Mary Ann ü",
        task="translate",
    )
    corpus[0] = replace(corpus[0], meta=ODD_META)
    corpus[1] = replace(corpus[1], speaker="", language="en", meta={"gender": "f"})
    corpus[2] = replace(corpus[2], text="")
    build(corpus, tmp_path / "shards", BUILD)
    return tmp_path / "shards"


@pytest.mark.parametrize("kind", EXPORTERS)
def test_export_and_import_give_the_same_utterances_and_bytes(tmp_path, shards, kind):
    before = read_index(shards)
    written = export(before, tmp_path / "out", kind)
    assert recognised(written)[0] == kind.removesuffix("_tarred").removesuffix("_shards")
    again = list(IMPORTERS[recognised(written)[0]].read(written, ImportOptions()))
    write_jsonl(tmp_path / "utterances.jsonl", again)  # as `prep import` would
    build(import_jsonl(tmp_path / "utterances.jsonl"), tmp_path / "again", BUILD)
    assert samples_of(tmp_path / "again") == samples_of(shards)
    assert [s.sha256 for s in read_index(tmp_path / "again").shards] == [s.sha256 for s in before.shards]


@pytest.mark.parametrize("kind", EXPORTERS)
def test_as_wav_not_a_sample_changes(tmp_path, shards, kind):
    written = export(read_index(shards), tmp_path / "out", kind, wav=True)
    utterances = list(IMPORTERS[recognised(written)[0]].read(written, ImportOptions()))
    before = samples_of(shards)
    assert len(utterances) == len(before) == 12
    for utterance in utterances:
        source = open_source(utterance.audio, utterance.part)
        assert read_all(source)[:4] == b"RIFF"
        assert (decode(source) == decode(before[utterance.key][0])).all(), utterance.key


def test_the_same_shards_export_to_the_same_bytes(tmp_path, shards):
    index = read_index(shards)
    for kind in ("nemo_tarred", "wenet_shards"):
        for out in ("a", "b"):
            export(index, tmp_path / kind / out, kind)
        names = sorted(path.name for path in (tmp_path / kind / "a").glob("*.tar"))
        assert len(names) == 3
        for name in names:
            assert (tmp_path / kind / "a" / name).read_bytes() == (tmp_path / kind / "b" / name).read_bytes()
    with tarfile.open(tmp_path / "nemo_tarred" / "a" / "audio_0.tar") as tar:
        assert [name.rpartition(".")[0] for name in tar.getnames()] == index.key[:5]


def test_a_kaldi_directory_is_as_kaldi_wants_it(tmp_path, shards):
    out = export(read_index(shards), tmp_path / "out", "kaldi")
    tables = {path.name: path.read_text("utf-8") for path in out.iterdir() if path.is_file()}
    assert set(tables) == {"wav.scp", "text", "utt2spk", "spk2utt", "utt2dur", "utt2lang", "utt2task", "utt2meta"}
    for name, table in tables.items():
        lines = table.encode().split(b"\n")[:-1]
        assert lines == sorted(lines) and all(
            len(line.split(None, 1)) == 2 or (name, line) == ("text", b"utt-02") for line in lines
        ), name
    assert "utt-00 Mary_Ann_ü\n" in tables["utt2spk"] and "utt-01 utt-01\n" in tables["utt2spk"]
    assert "speaker2 utt-02 utt-05 utt-08 utt-11\n" in tables["spk2utt"]
    assert all(Path(line.split()[1]).is_file() for line in tables["wav.scp"].splitlines())


def test_the_command_exports_and_says_what_to_import(tmp_path, shards, capsys):
    assert main(["prep", "export", str(shards), str(tmp_path / "out"), "--format", "slam_llm", "--wav"]) == 0
    assert "multitask.jsonl: 12 utterances" in capsys.readouterr().out
    row = json.loads((tmp_path / "out" / "multitask.jsonl").read_text().splitlines()[0])
    assert row["task"] in ("ASR", "translate") and row["source"] == row["path"] and row["path"].endswith(".wav")
    assert main(["prep", "export", str(shards), str(tmp_path / "out"), "--format", "kaldi"]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_media_that_are_no_audio_are_refused_by_key(tmp_path):
    meta = {"text": "a", "seconds": 1.0, "language": "", "speaker": "", "task": "transcribe", "meta": {}}
    with ShardWriter(tmp_path / "shard-000000.tar") as writer:
        writer.add("utt-a", "flac", b"no audio", meta, 16000)
        shard = writer.close()
    for media, wav in (("flac", True), ("any", False)):
        write_index(tmp_path, "audio", [shard], {}, {"media": media}, {})
        with pytest.raises(UserError, match='utterance utt-a: .*; run "slam-asr prep check'):
            export(read_index(tmp_path), tmp_path / "out" / media, "nemo", wav)


def test_an_export_that_fails_leaves_no_manifest(tmp_path, shards):
    index = read_index(shards)
    with open(shard_path(index, 2), "r+b") as tar:
        tar.seek(int(index.offset[10]) + 100)
        tar.write(b"damage")
    for kind in EXPORTERS:
        with pytest.raises(UserError, match="shard-000002.tar"):
            export(index, tmp_path / kind, kind)
        left = {path.name for path in (tmp_path / kind).rglob("*") if path.is_file()}
        assert (
            not [name for name in left if not name.endswith((".flac", ".tar"))] and f"{index.key[11]}.flac" not in left
        )


@pytest.mark.skipif(not SPEECH.is_dir(), reason="needs ../shared/speech")
@pytest.mark.parametrize("kind", EXPORTERS)
def test_real_speech_survives_every_toolkit(tmp_path, kind):
    tree = SPEECH / "an4" / "nemo_tarred"
    build(IMPORTERS["nemo"].read(tree, ImportOptions()), tmp_path / "shards", BuildOptions(shard_size=20))
    written = export(read_index(tmp_path / "shards"), tmp_path / "out", kind)
    again = IMPORTERS[recognised(written)[0]].read(written, ImportOptions())
    build(again, tmp_path / "again", BuildOptions(shard_size=20))
    assert (
        samples_of(tmp_path / "again") == samples_of(tmp_path / "shards") and len(read_index(tmp_path / "again")) == 32
    )


def samples_of(root):
    index = read_index(root)
    samples = [read_sample(index, i) for i in range(len(index))]
    return {sample.key: (bytes(sample.media), sample.meta) for sample in samples}
