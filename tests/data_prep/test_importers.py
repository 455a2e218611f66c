from dataclasses import replace

import pytest

from data_prep.build.manifest import import_corpus
from data_prep.importers import IMPORTERS, ImportOptions, recognised
from data_prep.importers.table import import_jsonl
from data_prep.utterance import MAX_KEY, Utterance, safe_key, write_jsonl
from model.errors import UserError
from tests.data_prep.toolkits import write_lines


def manifest(tmp_path, *rows):
    return write_lines(tmp_path / "manifest.jsonl", rows)


def test_librispeech_at_any_depth(tree):
    for root in (tree.parents[2], tree.parents[1], tree.parents[0]):
        utterances = list(IMPORTERS["librispeech"].read(root, ImportOptions()))
        assert [utterance.key for utterance in utterances] == ["84-121123-0000", "84-121123-0001"]
        assert utterances[0].text == "GO DO YOU HEAR" and utterances[0].speaker == "84"
        assert utterances[0].meta["split"] == "dev-clean"
    assert list(IMPORTERS["librispeech"].read(tree.parents[1], ImportOptions()))[0].meta["sex"] == "F"
    assert recognised(tree)[0] == "librispeech"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda tree: (tree / "84-121123.trans.txt").unlink(), "no \\*.trans.txt"),
        (lambda tree: (tree / "84-121123.trans.txt").write_bytes(b"84 \xe9"), "UTF-8"),
        (lambda tree: (tree / "84-121123.trans.txt").write_text("a b\na c"), ":2: a is there twice"),
        (lambda tree: [path.unlink() for path in tree.iterdir()], "holds no \\*.trans.txt"),
    ],
)
def test_an_unsound_tree_is_refused_by_name(tree, spoil, message):
    spoil(tree)
    with pytest.raises(UserError, match=message):
        list(IMPORTERS["librispeech"].read(tree.parents[2], ImportOptions()))


def test_manifests_of_several_dialects(tmp_path):
    path = manifest(
        tmp_path,
        {"audio_filepath": "wav/a.b.wav", "offset": 1.5, "duration": 2, "text": "nemo"},
        {"audio_path": "b.wav", "utt_id": "ü/1", "text": None, "licence": "CC0", "speaker": 7},
        {"key": "own", "audio": "/data/c.wav", "text": "own", "meta": {"id": "x"}},
    )
    nemo, other, own = IMPORTERS["jsonl"].read(path, ImportOptions())
    assert (nemo.key, nemo.start, nemo.duration) == ("a_b", 1.5, 2)
    assert nemo.audio == str(tmp_path / "wav/a.b.wav")
    assert (other.key, other.text, other.speaker) == ("__1", None, "7")
    assert other.meta == {"licence": "CC0", "id": "ü/1"}
    assert own == Utterance("own", "/data/c.wav", "own", meta={"id": "x"})
    assert recognised(manifest(tmp_path, {"audio": "a.wav", "text": "a"}))[0] == "jsonl"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"audio": "a.wav"}, "no column .text'"),
        ({"text": "a"}, "no column .audio'"),
        ({"audio": "cat a.wav |", "text": "a"}, "command or an address"),
        ({"audio": "pipe:touch x", "text": "a"}, "command or an address"),
        ({"audio": "file:///etc/passwd", "text": "a"}, "command or an address"),
        ({"audio": "../../a.wav", "text": "a"}, "leaves the manifest's folder"),
        ({"audio": "a.wav", "text": "a", "start": -1}, "start is -1"),
        ({"audio": "a.wav", "text": "a", "duration": "2"}, "duration is '2'"),
        ({"audio": "a.wav", "text": 5}, "text is 5"),
        ('{"audio": "a.wav", "text": "a", "text": "b"}', "'text' is there twice"),
        ('{"audio": "a.wav", "text": "\\ud800"}', "surrogates not allowed"),
        ('{"audio": "a.wav", "text": "a", "x": NaN}', "NaN is not JSON"),
        ("not json", "Expecting value"),
        ("[1]", "is no object"),
    ],
)
def test_a_bad_row_is_refused_with_file_and_line(tmp_path, row, message):
    path = manifest(tmp_path, {"audio": "fine.wav", "text": "fine"}, row)
    with pytest.raises(UserError, match=message) as error:
        list(IMPORTERS["jsonl"].read(path, ImportOptions()))
    assert str(error.value).startswith(f"{path}:2: ") and "\n" not in str(error.value)


def test_files_that_are_no_manifest(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes(b'{"audio": "a", "text": "\xe9"}')
    (tmp_path / "empty.jsonl").write_bytes(b"")
    for name, message in (("latin", "not UTF-8"), ("empty", "has no lines"), ("nowhere", "cannot read")):
        with pytest.raises(UserError, match=message):
            list(IMPORTERS["jsonl"].read(tmp_path / f"{name}.jsonl", ImportOptions()))


def test_keys_are_safe_unique_and_reversible():
    assert safe_key("a.b/c d") == "a_b_c_d"
    long = [safe_key("x" * 300 + tail) for tail in "ab"]
    assert len(set(long)) == 2 and all(len(key) == MAX_KEY for key in long)
    with pytest.raises(UserError, match="utterance key '../x'"):
        Utterance("../x", "a.wav", "text")


def test_keys_that_collide_after_making_them_safe_are_refused_by_name(tmp_path, corpus):
    path = manifest(tmp_path, *({"id": key, "audio": corpus[0].audio, "text": "a"} for key in ("a.b", "a/b")))
    with pytest.raises(UserError, match=" a_b .*twice"):
        import_corpus(IMPORTERS["jsonl"].read(path, ImportOptions()), tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_jsonl_round_trip_moves_with_its_audio(tmp_path, corpus):
    path = tmp_path / "a corpus" / "utterances.jsonl"
    given = [replace(corpus[0], start=0.1, duration=0.2, meta={"note": "ß", "n": [1.5, None]}), *corpus[1:]]
    assert write_jsonl(path, given) == 12
    assert list(import_jsonl(path)) == given
    (tmp_path / "a corpus").rename(tmp_path / "moved")
    assert next(import_jsonl(tmp_path / "moved/utterances.jsonl")).audio == str(tmp_path / "moved/utt 0.flac")


def test_an_import_reports_and_bounds_what_it_drops(tmp_path, corpus):
    bad = {"mute": {"text": ""}, "gone": {"audio": "/nowhere"}, "late": {"start": 100.0}}
    utterances = [*corpus, *(replace(corpus[0], key=key, **what) for key, what in bad.items())]
    with pytest.raises(UserError, match=r"3 of 15 .*--max-bad"):
        import_corpus(utterances, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
    report = import_corpus(utterances, tmp_path / "out.jsonl", max_bad=0.5)
    assert (report.read, report.kept, report.dropped) == (15, 12, {"no-text": 1, "missing-audio": 1, "bad-cut": 1})
    assert abs(sum(report.seconds_by_language.values()) - 5.7) < 1e-6 and len(report.first) == 3
    assert len((tmp_path / "out.quarantine.jsonl").read_text().splitlines()) == 3
    many = [replace(corpus[0], key=f"gone-{i}", audio="/nowhere") for i in range(1001)]
    with pytest.raises(UserError, match=r"1,000 bad utterances.*missing-audio 1,000"):
        import_corpus(many, tmp_path / "out.jsonl")
    (tmp_path / "mine.jsonl").write_text('{"audio": "a.wav", "text": "words"}\n')
    with pytest.raises(UserError, match=r"mine.jsonl is there already"):
        import_corpus(corpus, tmp_path / "mine.jsonl")
