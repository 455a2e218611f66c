"""Kaldi data directories in every form they are found in, and what must be refused."""

import io
import os

import numpy as np
import pytest

from data_prep.audio.decode import AudioError, decode, encode_flac, write_flac
from data_prep.build.build import BuildOptions, build
from data_prep.exporters import export
from data_prep.importers.parsing.importer import ImportOptions
from data_prep.importers.table import import_jsonl
from data_prep.shards.opening import read_index
from data_prep.shards.tar import read_sample
from data_prep.utterance import write_jsonl
from launch.command import main
from model.errors import UserError
from tests.data_prep.conftest import tone
from tests.data_prep.toolkits import heard, read, refused, wav_of, write_lines


@pytest.fixture
def kaldi(tmp_path):
    """Two recordings of 1 s and 2 s."""
    folder = tmp_path / "data dir"
    folder.mkdir()
    for number in (1, 2):
        write_flac(folder / f"rec {number}.flac", tone(number, 200, number))
    (folder / "wav.scp").write_text("rec2  rec 2.flac\nrec1\trec 1.flac  \n")
    return folder


def test_commands_run_only_where_allowed_and_never_in_a_shell(kaldi, capsys):
    (kaldi / "text").write_text("a one\nb two\n")
    (kaldi / "wav.scp").write_text(f"a cat '{kaldi}/rec 1.flac' |\nb cat '{kaldi}/rec 1.flac' | cat |\n")
    out = kaldi.parent / "out"
    assert main(["prep", "build", str(kaldi), str(out)]) == 2
    assert "wav.scp:1: " in capsys.readouterr().err and not out.exists()
    assert main(["prep", "build", str(kaldi), str(out), "--allow-pipes"]) == 0
    assert read_sample(read_index(out), 0).media == (kaldi / "rec 1.flac").read_bytes()
    write_jsonl(kaldi / "utterances.jsonl", read(kaldi, allow_pipes=True))
    with pytest.raises(UserError, match="--allow-pipes"):  # a manifest that holds commands is no permission
        next(import_jsonl(kaldi / "utterances.jsonl"))
    with pytest.raises(AudioError, match="--allow-pipes"):  # and to read them is none to run them
        heard(next(import_jsonl(kaldi / "utterances.jsonl", ImportOptions(allow_pipes=True))))
    (kaldi / "wav.scp").write_text(f"a cat x ; touch {kaldi}/sentinel |\nb cat x |\n")
    refused("wav.scp:1: .* has ';'", kaldi, allow_pipes=True)
    assert not (kaldi / "sentinel").exists()


def test_a_kaldi_directory_of_whole_recordings(kaldi):
    (kaldi / "text").write_bytes("\ufeffrec1 größe\u3000und \r\n\nrec2\n".encode())
    (kaldi / "utt2spk").write_text("rec1 ann\nrec2 bob\nrec3 gone\n")
    (kaldi / "spk2gender").write_text("ann f\n")
    (kaldi / "utt2lang").write_text("rec1 de\n")
    (kaldi / "utt2uniq").write_text("rec2 other\n")
    (kaldi / "utt2dur").write_text("rec1 0.5\nrec2 2.0\n")  # the first is wrong: no sound may be lost by it
    two, one = read(kaldi)
    assert (two.key, two.text, two.speaker, two.meta) == ("rec2", "", "bob", {"uniq": "other"})
    assert (one.text, one.language, one.meta) == ("größe\u3000und", "de", {"gender": "f"})
    assert one.start is None and one.audio == str(kaldi / "rec 1.flac")
    totals = build([one, two], kaldi.parent / "out", BuildOptions(max_bad=0.5))
    assert totals.bad == {"no-text": 1} and totals.utterances == 1 and totals.seconds == 1.0


def test_kaldi_segments_are_exact_cuts(kaldi):
    (kaldi / "segments").write_text("b rec2 0.1 0.4001\na.1 rec1 0.5 -1\n")
    (kaldi / "text").write_text("a.1 the end\nb cut\n")
    (kaldi / "utt2dur").write_text("b 0.3\n")
    b, a = read(kaldi)
    assert (b.key, b.start, b.duration) == ("b", 0.1, 0.3001)  # 0.4001 - 0.1 is not, in floats
    assert (a.key, a.start, a.duration, a.meta) == ("a_1", 0.5, None, {"id": "a.1"})
    assert (heard(b) == decode(kaldi / "rec 2.flac")[1600:6402]).all() and len(heard(a)) == 8000


@pytest.mark.parametrize("form", ["wav", "streamed wav", "flac", "kaldiio"])
def test_entries_of_an_ark_are_found_to_the_byte(tmp_path, form):
    waves = {f"utt{number}": tone(0.2 + 0.1 * number, 200, number) for number in range(3)}
    ark, scp = io.BytesIO(), []
    for key, samples in waves.items():
        data = encode_flac(samples) if form == "flac" else wav_of(samples, form == "streamed wav")
        ark.write(key.encode() + b" ")
        scp.append(f"{key} a.ark:{ark.tell()}")
        ark.write(b"AUDIO\2" + len(data).to_bytes(2, "little") + data if form == "kaldiio" else data)
    (tmp_path / "a.ark").write_bytes(ark.getvalue())
    write_lines(tmp_path / "wav.scp", reversed(scp))
    utterances = read(tmp_path)
    assert len(utterances) == 3
    for utterance in utterances:
        assert np.abs(heard(utterance) - waves[utterance.key]).max() <= 1 / 32768
        assert len(heard(utterance)) == len(waves[utterance.key])
    write_lines(tmp_path / "wav.scp", (scp[0], scp[2]))  # what lies between is not named
    if form in ("wav", "kaldiio"):
        assert len(heard(read(tmp_path)[0])) == 3200
    else:
        refused("leaves out the entry behind it", tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("wav.scp", b"rec1 a.flac\nrec1 b.flac\n", r"wav.scp:2: rec1 is there twice, first at .*wav.scp:1"),
        ("wav.scp", b"rec1 nowhere/a.flac\n", "wav.scp:1: there is no .*nowhere/a.flac.*--audio-root"),
        ("wav.scp", b"rec1\n", r"wav.scp:1: audio is ''"),
        ("wav.scp", b"rec1 ../../a.flac\n", "leaves the manifest's folder"),
        ("wav.scp", b"rec2 rec 2.flac\nrec1 sph2pipe -f wav a.sph |\n", "wav.scp:2: 'sph2pipe -f wav a.sph' is a comm"),
        ("wav.scp", b"rec1 rec 1.flac:999999999\n", r"wav.scp:1: .* has [0-9,]+ bytes, no entry at 999,999,999"),
        ("wav.scp", b"rec1 rec 1.flac:7\n", "neither WAV nor FLAC"),
        ("wav.scp", b"rec1 gone.ark:7\n", "there is no .*gone.ark"),
        ("text", b"rec1 fine\nrec2 caf\xe9\n", r"text:2: it is not UTF-8 \(byte 9 is 0xe9\)"),
        ("text", b"rec1 fine\nrec2 \0\n", "text:2: the line holds a NUL"),
        ("segments", b"a rec1 0 1\nb rec3 0 1\n", "segments:2: a segment of recording 'rec3', which wav.scp has not"),
        ("segments", b"a rec1 0.5 0.5\n", "segments:1: a segment from 0.5 to 0.5 s"),
        ("segments", b"a rec1 0 x\n", "segments:1: 'x' is no number"),
        ("segments", b"a rec1 0 nan\n", "segments:1: 'nan' is no number"),
        ("segments", b"a rec1 -2 1\n", "segments:1: .*start is -2"),
        ("segments", b"a rec1 0 1 1\n", "segments:1: a segment of channel '1'"),
        ("segments", b"a rec1 0\n", "segments:1: 3 words"),
        ("utt2spk", b"rec1 ann\nrec1 bob\n", "utt2spk:2: rec1 is there twice"),
    ],
)
def test_a_faulty_kaldi_directory_is_refused_with_file_and_line(kaldi, name, content, message):
    (kaldi / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read(kaldi)
    assert "\n" not in str(error.value)


def test_arks_made_to_do_harm_are_refused_at_once_and_not_quoted(tmp_path):
    (tmp_path / "a.ark").write_bytes(b"a RIFF\0\0\0\0WAVE")
    os.truncate(tmp_path / "a.ark", 200 << 30)
    write_lines(tmp_path / "wav.scp", ["a a.ark:2"])
    refused("a.ark:2 is a WAV file without sound", tmp_path)
    (tmp_path / "a.ark").write_text("a hunter2")
    with pytest.raises(UserError, match="neither WAV nor FLAC") as error:
        read(tmp_path)
    assert "hunter2" not in str(error.value)
    write_lines(tmp_path / "wav.scp", ["a https://ann:pass@host/a.ark?token=abc:2"])
    with pytest.raises(UserError, match="https://host/a.ark is an ark at an address") as error:
        read(tmp_path)
    assert "pass" not in str(error.value) and "abc" not in str(error.value)


def test_a_kaldi_directory_of_features_is_refused_as_such(tmp_path):
    (tmp_path / "feats.scp").write_text("a raw_mfcc.ark:13\n")
    refused("holds features, not audio", tmp_path)
    (tmp_path / "feats.ark").write_bytes(b"a \0BCM " + bytes(99))
    (tmp_path / "wav.scp").write_text("a feats.ark:2\n")
    refused("feats.ark:2 holds numbers", tmp_path)


def test_lhotse_reads_our_kaldi_and_we_read_its(tmp_path, corpus):
    from lhotse.kaldi import export_to_kaldi, load_kaldi_data_dir

    build(corpus, tmp_path / "shards", BuildOptions())
    index = read_index(tmp_path / "shards")
    recordings, supervisions, _ = load_kaldi_data_dir(export(index, tmp_path / "ours", "kaldi", wav=True), 16000)
    assert supervisions is not None
    samples = {sample.key: sample for sample in (read_sample(index, i) for i in range(len(index)))}
    assert {s.id: (s.text, s.speaker) for s in list(supervisions)} == {
        key: (sample.meta["text"], sample.meta["speaker"]) for key, sample in samples.items()
    }
    for recording in list(recordings):
        assert (recording.load_audio()[0] == decode(samples[recording.id].media)).all()
    export_to_kaldi(recordings, supervisions, tmp_path / "theirs", map_underscores_to=None)
    for utterance in read(tmp_path / "theirs"):
        assert utterance.text == samples[utterance.key].meta["text"] and utterance.start == 0
        assert (heard(utterance) == decode(samples[utterance.key].media)).all()
