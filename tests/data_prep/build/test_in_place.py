"""Tars of others: indexed where they lie, or imported and built anew."""

import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import webdataset

from data_prep.audio.decode import decode, resample, resampled_count
from data_prep.build.build import BuildOptions, build
from data_prep.build.in_place import ForeignOptions, index_in_place
from data_prep.importers import ImportOptions, recognised
from data_prep.importers.webdataset import SampleOptions, import_webdataset
from data_prep.recordings.open import open_source
from data_prep.shards.index import ShardError
from data_prep.shards.opening import read_index
from data_prep.shards.reader import read_batch
from data_prep.shards.tar import read_sample
from model.errors import UserError
from tests.data_prep.conftest import tone
from tests.data_prep.reading import check, read_utterance, read_wave
from tests.data_prep.shards.test_reader import PROMPT
from train.data.indexes import open_indexes

SPEECH = Path(__file__).parents[4] / "shared" / "speech"
FORMATS = {"a": (16000, 1, "wav"), "b": (44100, 2, "wav"), "c": (48000, 1, "ogg"), "d": (22050, 1, "mp3")}


def encoded(seconds: float, rate: int = 16000, channels: int = 1, kind: str = "wav", seed: int = 0) -> bytes:
    out = io.BytesIO()
    wave = resample(tone(seconds, seed=seed), 16000, rate)
    soundfile.write(out, np.stack([wave] * channels, axis=1), rate, format=kind.upper())
    return out.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    """a.wav a.txt ... d.mp3 d.txt, of many formats."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name, (rate, channels, kind) in FORMATS.items():
        (folder / f"{name}.{kind}").write_bytes(encoded(0.7, rate, channels, kind, ord(name)))
        (folder / f"{name}.txt").write_text(f"größe {name}\n")
    return folder


def test_a_folder_packed_by_plain_tar_gives_batches_from_where_it_lies(tmp_path, folder):
    subprocess.run(["tar", "cf", tmp_path / "set.tar", "-C", tmp_path, "source"], check=True)
    before = (tmp_path / "set.tar").read_bytes()
    totals = index_in_place([tmp_path / "set.tar"], tmp_path / "out", ForeignOptions())
    index = read_index(tmp_path / "out")
    assert sorted(index.key) == [f"source_{name}" for name in "abcd"] and not totals.bad and not totals.unused
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("index.json", "shard-000000.idx.json", "shard-000000.meta")
    ]
    ids = [index.key.index(f"source_{name}") for name in "dcba"]
    batch = read_batch(index, ids, PROMPT)
    assert batch.audio is not None and batch.texts == tuple(f"größe {name}" for name in "dcba")
    for number, name in enumerate("dcba"):
        wave = decode(folder / f"{name}.{FORMATS[name][2]}")
        start, end = batch.audio_cu[number : number + 2].tolist()
        assert np.array_equal(batch.audio[start:end].numpy(), wave)
        assert np.array_equal(read_wave(index, ids[number]).numpy(), wave)
    assert check(tmp_path / "out") == [] and (tmp_path / "set.tar").read_bytes() == before
    sample = read_sample(index, 0)
    shutil.move(tmp_path, tmp_path.with_name("moved"))
    try:
        moved = read_index(tmp_path.with_name("moved") / "out")
        assert moved.shards[0].source == "../set.tar" and read_sample(moved, 0) == sample
        assert read_utterance(moved, 0).meta["id"].startswith("source/")
    finally:
        shutil.move(tmp_path.with_name("moved"), tmp_path)


def test_what_webdataset_writes_is_indexed_with_the_fields_of_its_json(tmp_path, monkeypatch):
    monkeypatch.setattr(webdataset.utils, "enforce_security", False)  # our reader switches it on, for all in a process
    with webdataset.ShardWriter(f"{tmp_path}/part-%03d.tar", maxcount=3, verbose=0) as sink:  # pyright: ignore
        for n in range(7):
            row = {"transcription": f"number {n}", "speaker_id": n % 2, "lang": "en", "snr": 3.5, "meta": {"take": n}}
            sink.write({"__key__": f"utt {n}", "flac": encoded(0.3, kind="flac", seed=n), "json": row, "pyd": [n]})
    totals = index_in_place([tmp_path], tmp_path / "out" / "deep", ForeignOptions(workers=2))
    assert (totals.utterances, totals.shards, totals.unused) == (7, 3, {".pyd": 7})
    index = read_index(tmp_path / "out" / "deep")
    assert index.shards[1].source == str(tmp_path / "part-001.tar")  # not beside it: the whole path
    utterance = read_utterance(index, 4)
    assert (utterance.key, utterance.text, utterance.speaker, utterance.language) == ("utt_4", "number 4", "0", "en")
    assert utterance.meta == {"id": "utt 4", "snr": 3.5, "take": 4} and utterance.task == "transcribe"
    assert len(decode(open_source(utterance.audio, utterance.part))) == index.samples[4]
    shutil.copytree(tmp_path, tmp_path / "copy")
    index_in_place([tmp_path / "copy"], tmp_path / "copy" / "index", ForeignOptions())
    copy = read_index(tmp_path / "copy" / "index")
    assert copy.digest() == index.digest() and copy.shards[1].source == "../part-001.tar"
    again = index_in_place(sorted(tmp_path.glob("*.tar")), tmp_path / "alone", ForeignOptions(verify=False))
    assert again.utterances == 7 and read_index(tmp_path / "alone").samples.tolist() == index.samples.tolist()


def test_lengths_reckoned_are_those_decoded():
    for rate in (8000, 11025, 22050, 22255, 24000, 32000, 44100, 48000, 96000):
        for count in (400, 1001, 44100, 123457):
            assert resampled_count(count, rate) == len(resample(np.zeros(count, np.float32), rate)), (rate, count)
    long = 12_582_914  # at 12 kHz: float32 does not hold its length at 16 kHz
    assert resampled_count(long, 12000) == len(resample(np.zeros(long, np.float32), 12000)) != -(-long * 4 // 3)


def test_samples_of_no_use_are_named_counted_and_bounded(tmp_path):
    good = {
        f"g{n}.{kind}": encoded(0.3, seed=n) if kind == "wav" else b"words" for n in range(4) for kind in ("wav", "txt")
    }
    wave = encoded(0.3)
    bad = {
        "no-transcript": {"wav": wave},
        "no-text": {"wav": wave, "txt": b" \n"},
        "no-words": {"wav": wave, "txt": b"..."},
        "bad-text": {"wav": wave, "txt": b"gr\xf6\xdfe"},
        "no-audio": {"txt": b"words"},
        "pickle": {"npy": b"\x93NUMPY", "txt": b"words"},
        "several-recordings": {"left.wav": wave, "right.wav": wave, "txt": b"words"},
        "bad-json": {"wav": wave, "json": b'{"text": ["a", "b"]}'},
        "unreadable": {"m4a": b"noise" * 100, "txt": b"words"},
        "needs-ffmpeg": {"m4a": b"\0\0\0\x1cftypM4A " * 9, "txt": b"words"},
        "silent": {"wav": encoded(0.3)[:44] + bytes(9600), "txt": b"words"},
        "truncated": {"wav": wave[:-2000], "txt": b"words"},
    }
    members = {f"{reason}.{kind}": data for reason, parts in bad.items() for kind, data in parts.items()}
    tar = write_tar(tmp_path / "set.tar", good | members | {"LICENSE": b"words", "._g0.wav": b"of a Mac"})
    with pytest.raises(UserError, match=r"12 of 16 .*--max-bad 0.01 allows 0; see .*quarantine\.jsonl"):
        index_in_place([tar], tmp_path / "out", ForeignOptions())
    totals = index_in_place([tar], tmp_path / "out", ForeignOptions(max_bad=0.8))
    assert (
        totals.bad == dict.fromkeys(bad, 1) and totals.utterances == 4 and totals.unused == {".npy": 1, "(no key)": 2}
    )
    notes = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert {note["key"]: note["reason"] for note in notes} == {reason: reason for reason in bad}
    assert all(note["message"] and note["audio"] == f"{tar}: {note['key']}" for note in notes)
    built = build(import_webdataset(tar), tmp_path / "built", BuildOptions(max_bad=0.8))  # the same ones
    assert built.utterances == 4 and sum(built.bad.values()) == 12 and built.bad["pickle"] == 1


def test_what_has_an_empty_transcript_is_indexed_where_that_is_asked_for(tmp_path):
    nothing = encoded(0.3)[:44] + bytes(9600)
    tar = write_tar(tmp_path / "set.tar", {"a.wav": nothing, "a.txt": b"", "b.wav": nothing, "c.wav": nothing})
    totals = index_in_place([tar], tmp_path / "out", ForeignOptions(max_bad=0.7, allow_empty=True))
    assert totals.bad == {"no-transcript": 2} and read_utterance(read_index(tmp_path / "out"), 0).text == ""


def test_a_key_that_is_there_twice_is_refused_or_given_its_tar(tmp_path):
    for number in range(2):
        write_tar(tmp_path / f"part{number}.tar", {"a.wav": encoded(0.3, seed=number), "a.txt": b"words"})
    with pytest.raises(UserError, match=r"key a is there twice: 'a' in .*part0.tar and 'a' in .*part1.tar; --prefix"):
        index_in_place([tmp_path], tmp_path / "out", ForeignOptions())
    options = ForeignOptions(samples=SampleOptions(prefix_shard=True))
    assert index_in_place([tmp_path], tmp_path / "out", options).utterances == 2
    assert read_index(tmp_path / "out").key == ["part0-a", "part1-a"]


def test_the_transcript_is_the_field_or_member_the_person_names(tmp_path):
    row = json.dumps({"text": "plain", "normalized": "spoken words"}).encode()
    tar = write_tar(tmp_path / "set.tar", {"a.wav": encoded(0.3), "a.json": row, "a.lab": b"of the label"})
    for samples, text in [
        (SampleOptions(), "plain"),
        (SampleOptions(text_field="normalized"), "spoken words"),
        (SampleOptions(text_extension="lab"), "of the label"),
    ]:
        index_in_place([tar], tmp_path / text, ForeignOptions(samples=samples))
        assert read_utterance(read_index(tmp_path / text), 0).text == text
    with pytest.raises(UserError, match="no-text 1"):
        index_in_place([tar], tmp_path / "out", ForeignOptions(samples=SampleOptions(text_field="normalised")))
    message = json.loads((tmp_path / "out" / "quarantine.jsonl").read_text())["message"]
    assert message == "its .json has no field 'normalised'; did you mean 'normalized'?"


def test_a_tar_that_changed_is_found_and_only_it_is_read_again(tmp_path, folder):
    tars = [
        write_tar(tmp_path / f"{n}.tar", {f"u{n}.wav": encoded(0.3, seed=n), f"u{n}.txt": b"words"}) for n in (0, 1)
    ]
    out = tmp_path / "out"
    index_in_place(tars, out, ForeignOptions())
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    digest = read_index(out).digest()
    assert index_in_place(tars, out, ForeignOptions()).already_built
    (out / "index.json").unlink()
    (out / "shard-000001.meta").unlink()  # as if it had been killed
    assert index_in_place(tars, out, ForeignOptions()).kept_shards == 1
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first
    data = bytearray(tars[1].read_bytes())
    data[600] ^= 1
    tars[1].write_bytes(data)
    os.utime(tars[1], ns=(1, 1))
    with pytest.raises(ShardError, match=r"1\.tar, utterance u1: .*changed.*prep check .*out"):
        read_sample(read_index(out), 1)
    assert check(out)
    with pytest.raises(UserError, match="another input.*--overwrite"):
        index_in_place(tars, out, ForeignOptions())
    assert index_in_place(tars, out, ForeignOptions(overwrite=True)).kept_shards == 1
    assert check(out) == [] and read_index(out).digest() != digest
    assert index_in_place(tars[:1], out, ForeignOptions(overwrite=True)).shards == 1
    assert not (out / "shard-000001.meta").exists() and not (out / "shard-000001.idx.json").exists()
    with pytest.raises(UserError, match="holds the tars themselves"):
        index_in_place(tars, tmp_path, ForeignOptions(overwrite=True))
    tars[0].unlink()
    with pytest.raises(UserError, match=r"\.\./0\.tar is missing"):
        read_index(out)


def test_metadata_that_changed_are_found(tmp_path):
    tar = write_tar(tmp_path / "set.tar", {"a.wav": encoded(0.3), "a.txt": b"words"})
    index_in_place([tar], tmp_path / "out", ForeignOptions())
    path = tmp_path / "out" / "shard-000000.meta"
    path.write_bytes(path.read_bytes().replace(b"words", b"wordy"))
    with pytest.raises(ShardError, match="changed"):
        read_sample(read_index(tmp_path / "out"), 0)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="does not describe"):
        read_index(tmp_path / "out")


def test_a_set_in_place_trains_beside_one_that_was_built(tmp_path, corpus, folder):
    write_tar(tmp_path / "set.tar", {path.name: path.read_bytes() for path in sorted(folder.iterdir())})
    index_in_place([tmp_path / "set.tar"], tmp_path / "foreign", ForeignOptions())
    build(corpus, tmp_path / "built", BuildOptions())
    for roots in (["built", "foreign"], ["foreign", "built"]):
        index = open_indexes([str(tmp_path / root) for root in roots])
        batch = read_batch(index, range(len(index)), PROMPT)
        assert len(batch.keys) == 16 and batch.audio is not None
        for number, key in enumerate(index.key):
            alone = read_index(tmp_path / ("foreign" if len(key) == 1 else "built"))
            start, end = batch.audio_cu[number : number + 2].tolist()
            assert torch.equal(batch.audio[start:end], read_wave(alone, alone.key.index(key)))


def test_an_import_re_shards_foreign_tars_into_clean_flac(tmp_path, folder):
    tars = tmp_path / "tars"
    tars.mkdir()
    write_tar(tars / "set.tar", {path.name: path.read_bytes() for path in sorted(folder.iterdir())})
    assert recognised(tars)[0] == recognised(tars / "set.tar")[0] == "webdataset"
    build(import_webdataset(tars, ImportOptions()), tmp_path / "built", BuildOptions())
    index_in_place([tars], tmp_path / "place", ForeignOptions())
    built, place = read_index(tmp_path / "built"), read_index(tmp_path / "place")
    assert built.media == "flac" and sorted(built.key) == sorted(place.key) == ["a", "b", "c", "d"]
    for i, key in enumerate(place.key):
        other = read_wave(built, built.key.index(key))
        assert len(other) == place.samples[i] and (other - read_wave(place, i)).abs().max() < 1 / 32768
    with pytest.raises(UserError, match="--column names the transcript's field alone"):
        list(import_webdataset(tars, ImportOptions(columns={"speaker": "spk"})))
    with pytest.raises(UserError, match="is compressed; unpack it"):
        (tars / "more.tar.gz").write_bytes(b"")
        index_in_place([tars], tmp_path / "again", ForeignOptions())


@pytest.mark.skipif(not SPEECH.is_dir(), reason="needs ../shared/speech")
def test_real_speech_of_odd_formats_is_indexed_in_place(tmp_path):
    sounds = [path for path in sorted((SPEECH / "odd_formats").iterdir()) if path.suffix != ".jsonl"]
    members = {f"{number:02}{path.suffix}": path.read_bytes() for number, path in enumerate(sounds)}
    tar = write_tar(tmp_path / "set.tar", members | {f"{n:02}.txt": b"words" for n in range(len(sounds))})
    assert index_in_place([tar], tmp_path / "out", ForeignOptions()).utterances == len(sounds)
    index = read_index(tmp_path / "out")
    for i, path in enumerate(sounds):
        assert np.array_equal(read_wave(index, i).numpy(), decode(path)), path.name
    index_in_place([tar], tmp_path / "quick", ForeignOptions(verify=False))
    assert read_index(tmp_path / "quick").samples.tolist() == index.samples.tolist()
