import io
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_prep.audio.decode import decode
from data_prep.build.build import BuildOptions, build
from data_prep.build.in_place import ForeignOptions, index_in_place
from data_prep.build.prepare import Limits
from data_prep.inspect.sample import SampleChoice, write_sample
from data_prep.shards.opening import read_index, shard_path
from data_prep.shards.tar import read_sample
from launch.command import main
from model.errors import UserError
from tests.data_prep.conftest import tone
from tests.data_prep.rework.test_reshard import features
from tests.data_prep.toolkits import Page, write_tar

HOSTILE = '<script>alert(1)</script> & "größe" {0}'


@pytest.fixture
def root(tmp_path, corpus) -> Path:
    corpus[3] = replace(corpus[3], text=HOSTILE, speaker="<b>", language="de")
    build(corpus, tmp_path / "set", BuildOptions(shard_size=5))
    return tmp_path / "set"


def test_clips_play_beside_their_transcripts(tmp_path, root, corpus):
    index = read_index(root)
    clips = write_sample(index, tmp_path / "out", SampleChoice())
    page = Page((tmp_path / "out/index.html").read_text("utf-8"))
    assert len(clips) == 12 and sorted(value for name, value in page.attributes if name == "src") == sorted(
        f"{utterance.key}.flac" for utterance in corpus
    )
    assert "script" not in page.tags and "b" not in page.tags and HOSTILE in page.text
    for i, key in enumerate(index.key):
        assert (tmp_path / f"out/{key}.flac").read_bytes() == read_sample(index, i).media
    rows = [line.split("\t") for line in (tmp_path / "out/transcripts.tsv").read_text(encoding="utf-8").splitlines()]
    assert rows[0] == ["file", "seconds", "speaker", "language", "text"] and len(rows) == 13
    assert ["utt-03.flac", "0.35", "<b>", "de", HOSTILE] in rows
    with pytest.raises(UserError, match="not empty; give another folder"):
        write_sample(index, tmp_path / "out", SampleChoice())


def test_wav_is_what_the_shard_decodes_to(tmp_path, root):
    index = read_index(root)
    (clip,) = write_sample(index, tmp_path / "out", SampleChoice(number=1, wav=True))
    with wave.open(str(tmp_path / "out" / clip.file)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16000, 1, 2)
    media = read_sample(index, index.key.index(clip.key)).media
    assert np.array_equal(decode(tmp_path / "out" / clip.file), decode(media))


def test_what_browsers_play_is_left_as_it_is_and_all_else_becomes_flac(tmp_path, corpus):
    folder = tmp_path / "tars"
    folder.mkdir()
    members = []
    for name, kind in {"one": "WAV", "two": "AIFF"}.items():
        data = io.BytesIO()
        soundfile.write(data, tone(0.5), 16000, format=kind)
        members += [(f"{name}.{kind.lower()}", data.getvalue()), (f"{name}.txt", b"some words")]
    write_tar(folder / "a.tar", members)
    index_in_place([folder], tmp_path / "set", ForeignOptions())
    clips = write_sample(read_index(tmp_path / "set"), tmp_path / "out", SampleChoice())
    assert {clip.file for clip in clips} == {"one.wav", "two.flac"}
    assert np.array_equal(decode(tmp_path / "out/one.wav"), decode(tmp_path / "out/two.flac"))
    build(corpus[:1], tmp_path / "opus", BuildOptions(limits=Limits(media="opus")))
    (clip,) = write_sample(read_index(tmp_path / "opus"), tmp_path / "heard", SampleChoice())
    assert clip.file == "utt-00.ogg" and len(decode(tmp_path / "heard" / clip.file)) == 3200


def test_the_choice_is_by_seed_by_length_or_by_turns(tmp_path, root):
    index = read_index(root)

    def chosen(name: str, **options) -> list[str]:
        return [clip.key for clip in write_sample(index, tmp_path / name, SampleChoice(number=4, **options))]

    assert chosen("one", seed=1) == chosen("two", seed=1) != chosen("three", seed=2)
    assert chosen("long", order="longest") == ["utt-11", "utt-10", "utt-09", "utt-08"]
    assert chosen("short", order="shortest") == ["utt-00", "utt-01", "utt-02", "utt-03"]
    speakers = [key for key in chosen("by", by="speaker")]
    said = {"utt-03": "<b>"} | {f"utt-{n:02}": f"speaker{n % 3}" for n in range(12) if n != 3}
    assert len({said[key] for key in speakers}) == 4
    assert chosen("keys", keys=frozenset({"utt-05"})) == ["utt-05"]


def test_what_cannot_be_is_refused_and_leaves_nothing(tmp_path, root):
    index = read_index(root)
    cached = read_index(features(tmp_path / "features", "f", 2))
    faults = {
        "nothing to listen to": (cached, SampleChoice()),
        "has no utterance nobody nor 1 more": (index, SampleChoice(keys=frozenset({"nobody", "none", "utt-01"}))),
        "no utterance has a field 'sex'": (index, SampleChoice(by="sex")),
    }
    for what, (given, options) in faults.items():
        with pytest.raises(UserError, match=what):
            write_sample(given, tmp_path / "out", options)
    with open(shard_path(index, 0), "r+b") as file:
        file.seek(int(index.offset[0]) + 60)
        file.write(b"\0\1\2\3")
    with pytest.raises(UserError, match="bytes have changed"):
        write_sample(index, tmp_path / "out", SampleChoice())
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_a_sample_by_the_command(tmp_path, root, capsys):
    (tmp_path / "keys.jsonl").write_text('{"key": "utt-02", "reason": "clipped"}\n')
    out = tmp_path / "out"
    assert main(["prep", "sample", str(root), str(out), "--keys", str(tmp_path / "keys.jsonl")]) == 0
    assert "1 utterance, 0.3 s; listen" in capsys.readouterr().out and (out / "utt-02.flac").exists()
    assert main(["prep", "sample", str(root), str(tmp_path / "x"), "-n", "0"]) == 2
    assert "it must be at least 1" in capsys.readouterr().err
