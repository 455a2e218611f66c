"""Real recordings, where they are: LibriSpeech as it is unpacked, odd formats, and files that must be refused."""

import json
from pathlib import Path

import pytest

from data_prep.audio.decode import AudioError, decode
from data_prep.build.build import BuildOptions, build
from data_prep.build.manifest import import_corpus
from data_prep.importers import IMPORTERS, ImportOptions, recognised
from data_prep.importers.table import import_jsonl
from data_prep.shards.opening import read_index
from tests.data_prep.reading import check

SPEECH = Path(__file__).parents[4] / "shared" / "speech"
pytestmark = pytest.mark.skipif(not SPEECH.is_dir(), reason="needs ../shared/speech")


def test_librispeech_goes_through_import_build_and_check(tmp_path):
    tree = SPEECH / "librispeech"
    report = import_corpus(IMPORTERS[recognised(tree)[0]].read(tree, ImportOptions()), tmp_path / "utterances.jsonl")
    assert (report.read, report.kept) == (51, 51)
    totals = build(import_jsonl(tmp_path / "utterances.jsonl"), tmp_path / "out", BuildOptions(shard_size=20))
    assert (
        totals.utterances == 51
        and not totals.bad
        and abs(totals.seconds - sum(report.seconds_by_language.values())) < 1
    )
    assert check(tmp_path / "out") == []


def test_every_odd_format_sounds_alike():
    for path in sorted((SPEECH / "odd_formats").iterdir()):
        if path.suffix != ".jsonl":
            wave = decode(path)
            assert abs(len(wave) / 16000 - (9.0 if "sonnet" in path.name else 2.745)) < 0.02, path.name
            assert 0.5 < abs(wave).max() < 0.7, path.name


def test_bad_files_are_quarantined_each_with_its_reason(tmp_path):
    expected = {
        "mono.empty.wav": "empty",
        "mono.invalid.wav": "unreadable",
        "mono.zero.wav": "empty",
        "p001.flac": "damaged",
        "p001.aac": "needs-ffmpeg",
        "p001.mp4": "needs-ffmpeg",
        "example4.raw": "unreadable",  # headerless: nothing says its rate
    }
    for name, reason in expected.items():
        with pytest.raises(AudioError) as error:
            decode(SPEECH / "bad" / name)
        assert error.value.reason == reason, name
    rows = [{"audio": str(SPEECH / "bad" / name), "text": "some words"} for name in expected]
    rows += [{"audio": str(SPEECH / "an4" / row["audio_path"]), "text": row["text"]} for row in _rows(SPEECH / "an4")]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    totals = build(
        IMPORTERS["jsonl"].read(tmp_path / "m.jsonl", ImportOptions()), tmp_path / "out", BuildOptions(max_bad=0.2)
    )
    assert totals.bad == {"empty": 2, "unreadable": 2, "needs-ffmpeg": 2, "damaged": 1} and totals.utterances == 40
    assert len(read_index(tmp_path / "out")) == 40


def _rows(folder):
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
