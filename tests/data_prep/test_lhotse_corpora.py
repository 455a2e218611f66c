"""Corpora that lhotse wrote, read back: the same rows, and the samples that lhotse gives."""

import gzip
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, MonoCut, MultiCut, Recording, RecordingSet, SupervisionSegment, SupervisionSet
from lhotse.audio import AudioSource
from lhotse.supervision import AlignmentItem

from data_prep.audio.decode import write_flac
from data_prep.importers import IMPORTERS, ImportOptions, recognised
from data_prep.importers.table import import_jsonl
from data_prep.utterance import write_jsonl
from model.errors import UserError
from tests.data_prep.conftest import tone
from tests.data_prep.toolkits import heard, read, refused


@pytest.fixture
def recordings(tmp_path):
    """Three of 1.5 s, 2 s and 2.5 s."""
    (tmp_path / "audio").mkdir()
    for number in range(3):
        write_flac(tmp_path / "audio" / f"rec{number}.flac", tone(1.5 + 0.5 * number, 200 + 50 * number, number))
    return [Recording.from_file(tmp_path / "audio" / f"rec{number}.flac") for number in range(3)]


@pytest.fixture
def cuts(recordings):
    """Three cuts, with one, two and no utterances; one begins within its recording, between two samples."""
    whole, middle, silent = (recording.to_cut() for recording in recordings)
    middle = middle.truncate(offset=0.3337, duration=1.5)
    words = {"word": [AlignmentItem("größe", 0.1, 0.3, 0.9)]}
    whole.supervisions = [
        SupervisionSegment("all", whole.recording_id, 0, whole.duration, text="größe", language="de", speaker="s1"),
    ]
    middle.supervisions = [
        SupervisionSegment("a", middle.recording_id, 0.10001, 0.7, text="a", gender="F", custom={"x": [1]}),
        SupervisionSegment("b", middle.recording_id, 0.8, 0.65, text="b", alignment=words),
    ]
    return CutSet.from_cuts([whole, middle, silent])


def test_lhotse_cuts_give_the_samples_that_lhotse_gives(tmp_path, cuts):
    cuts.to_file(tmp_path / "cuts.jsonl.gz")
    whole, a, b, silent = read(tmp_path / "cuts.jsonl.gz")
    assert (whole.key, whole.text, whole.language, whole.speaker) == ("all", "größe", "de", "s1")
    assert whole.start is None and silent.text is None and silent.key == cuts[2].id
    assert (a.meta["gender"], a.meta["custom"], a.meta["recording"]) == ("F", {"x": [1]}, "rec1")
    assert b.meta["alignment"] == {"word": [["größe", 0.1, 0.3, 0.9]]} and b.meta["cut"]["id"] == cuts[1].id
    for utterance, cut in zip((whole, a, b), cuts.subset(first=2).trim_to_supervisions(), strict=True):
        assert np.array_equal(heard(utterance), cut.load_audio()[0])
    write_jsonl(tmp_path / "utterances.jsonl", [whole, a, b, silent])
    assert list(import_jsonl(tmp_path / "utterances.jsonl")) == [whole, a, b, silent]


def test_lhotse_recordings_with_supervisions_are_joined_split_by_split(tmp_path, recordings):
    folder = tmp_path / "manifests"
    folder.mkdir()
    for split, number in (("dev", 0), ("train", 1)):
        name = recordings[number].id
        segment = SupervisionSegment(f"{name}-1", name, 0.25, 0.5, text=split)
        RecordingSet.from_recordings(recordings[number:]).to_file(folder / f"my_recordings_{split}.jsonl.gz")
        SupervisionSet.from_segments([segment]).to_file(folder / f"my_supervisions_{split}.jsonl.gz")
    refused("dev, train; .*--subset", folder)
    spoken, silent = read(folder, split="train")
    assert (spoken.key, spoken.text, spoken.start, spoken.duration) == ("rec1-1", "train", 0.25, 0.5)
    assert (silent.key, silent.text) == ("rec2", None)  # for the import to count
    assert read(folder / "my_supervisions_train.jsonl.gz") == [spoken, silent]
    (folder / "my_recordings_train.jsonl.gz").write_bytes(gzip.compress(b""))
    refused("supervisions_train.jsonl.gz:1: .*rec1-1 .*rec1", folder / "my_supervisions_train.jsonl.gz")


def test_lhotse_channels_are_averaged_or_a_file_each_never_taken_apart(tmp_path, recordings):
    waves = [tone(1.0, hertz) for hertz in (200, 300)]
    soundfile.write(tmp_path / "stereo.wav", np.stack(waves, 1), 16000)
    stereo = Recording.from_file(tmp_path / "stereo.wav")
    both = MultiCut("both", 0, 1.0, [0, 1], [SupervisionSegment("s", "stereo", 0, 0.5, [0, 1], "x")], recording=stereo)
    CutSet.from_cuts([both]).to_file(tmp_path / "both.jsonl.gz")
    (utterance,) = read(tmp_path / "both.jsonl.gz")
    assert np.allclose(heard(utterance), np.mean(waves, 0)[:8000], atol=1e-4)
    CutSet.from_cuts([MonoCut("one", 0, 1.0, 0, recording=stereo)]).to_file(tmp_path / "one.jsonl.gz")
    refused(r"recording stereo has files of channels \[0, 1\], wanted is \[0\]", tmp_path / "one.jsonl.gz")
    two = [AudioSource("file", [channel], recordings[channel].sources[0].source) for channel in (0, 1)]
    apart = Recording("apart", two, 16000, 24000, 1.5)
    CutSet.from_cuts([MonoCut("second", 0, 1.5, 1, recording=apart)]).to_file(tmp_path / "apart.jsonl")
    assert read(tmp_path / "apart.jsonl")[0].audio == recordings[1].sources[0].source


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda cut: cut.perturb_speed(0.9), "transformed on loading \\(Speed\\)"),
        (lambda cut: cut.resample(8000), "transformed on loading \\(Resample\\)"),
        (lambda cut: cut.pad(9.0), "is a MixedCut"),
        (lambda cut: replace(cut, recording=None), "has no recording"),
        (lambda cut: with_source(cut, "memory", "RIFF"), "source of type memory"),
        (lambda cut: with_source(cut, "command", "touch ran"), "is a command; .* --allow-pipes"),
        (lambda cut: with_source(cut, "shar", ""), "give the Shar folder"),
        (lambda cut: with_source(cut, "file", "../a.wav"), "leaves the manifest's folder"),
        (lambda cut: with_source(cut, "url", "ftp://a/b.wav"), "an address that is not read"),
    ],
)
def test_what_lhotse_would_change_or_run_on_loading_is_refused(tmp_path, recordings, change, message):
    CutSet.from_cuts([change(recordings[0].to_cut())]).to_file(tmp_path / "cuts.jsonl")
    with pytest.raises(UserError, match=message) as error:
        list(IMPORTERS["lhotse"].read(tmp_path / "cuts.jsonl", ImportOptions()))
    assert str(error.value).startswith(f"{tmp_path / 'cuts.jsonl'}:1: ")


def with_source(cut, kind, source):
    cut.recording.sources = [AudioSource(kind, [0], source)]
    return cut


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # lhotse leaves its tars open
@pytest.mark.parametrize("audio_format", ["flac", "wav"])
def test_shar_gives_the_samples_that_lhotse_gives_from_where_they_lie(tmp_path, cuts, audio_format):
    folder = tmp_path / "shar"
    folder.mkdir()
    cuts.subset(first=2).to_shar(folder, {"recording": audio_format}, shard_size=1)
    assert recognised(folder)[0] == "shar" and len(list(folder.glob("*.tar"))) == 2
    whole, a, b = read(folder)
    assert whole.audio == str(folder / "recording.000000.tar") and whole.part.startswith("bytes:")
    assert (a.text, a.meta["custom"], whole.start, b.meta["cut"]["id"]) == ("a", {"x": [1]}, None, cuts[1].id)
    for utterance, cut in zip((whole, a, b), CutSet.from_shar(in_dir=folder).trim_to_supervisions(), strict=True):
        assert np.array_equal(heard(utterance), cut.load_audio()[0])


def test_a_shar_that_lacks_audio_is_refused_by_name(tmp_path, cuts):
    folder = tmp_path / "shar"
    folder.mkdir()
    cuts.subset(first=2).to_shar(folder, {"recording": "flac"}, shard_size=1)
    (folder / "recording.000001.tar").rename(tmp_path / "away.tar")
    refused(r"cuts.000001.jsonl.gz has no recording.000001.tar beside it", folder)
    (tmp_path / "away.tar").write_bytes((folder / "recording.000000.tar").read_bytes())
    (tmp_path / "away.tar").rename(folder / "recording.000001.tar")
    refused(r"cuts.000001.jsonl.gz:1: cut .* has no audio in recording.000001.tar", folder)
    cuts[1].supervisions[0].start = -0.2  # as trim_to_supervisions() leaves those that overlap
    cuts.subset(first=2).to_shar(folder, {"recording": "flac"}, shard_size=1)
    refused("utterance a begins before", folder)
