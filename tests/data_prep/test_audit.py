import json
import re
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.build.build import BuildOptions, build
from data_prep.durable import canonical_json
from data_prep.importers import IMPORTERS, ImportOptions, recognised
from data_prep.inspect import check
from data_prep.inspect.audit.audit import EXAMPLES, Surveyed, apply, audit, spreads
from data_prep.inspect.audit.measures import ROW, Measured, measure_text, names_of
from data_prep.inspect.audit.report import page, summary
from data_prep.inspect.audit.rules import RULES
from data_prep.inspect.check import CheckOptions
from data_prep.inspect.stats import breakdown, table_by
from data_prep.shards.index import shard_name, write_index
from data_prep.shards.opening import read_index
from launch.command import main
from tests.data_prep.spoken import Spoken, clean, speech, written
from tests.data_prep.toolkits import Page

SPEECH = Path(__file__).parents[3] / "shared" / "speech"


def faulty(base: dict[str, Spoken]) -> dict[str, tuple[Spoken, str]]:
    """By key: an utterance with a fault, and all judgements that must find it."""
    text, wave = "falcon over the quiet meadow at dawn", speech(2.4, 999)
    one = Spoken(text, wave, speaker="speaker 3")
    loud, after = np.clip(wave * 4, -1, 1), np.random.default_rng(1).normal(0, 1e-4, 64000).astype(np.float32)
    paused = np.concatenate([wave[:20000], after, after, wave[:20000]])
    hum = (0.1 * np.sin(2 * np.pi * 50 * np.arange(38400) / 16000)).astype(np.float32)
    twin = replace(one, text=base["clean-02"].text, wave=base["clean-02"].wave)
    found = {
        "twin-text": (replace(one, text=base["clean-01"].text.upper().capitalize() + "!"), "duplicate-text"),
        "twin-audio": (twin, "duplicate-text duplicate-audio"),
        "other-text": (replace(one, wave=base["clean-03"].wave), "duplicate-audio contradiction"),
        "CAPITALS": (replace(one, text="FALCON OVER THE QUIET MEADOW"), "capitals"),
        "tag": (replace(one, text=f"{text} <unk>"), "markup"),
        "note": (replace(one, text=f"[noise] {text}"), "markup"),
        "address": (replace(one, text=f"{text} www.example.org"), "markup"),
        "cyrillic": (replace(one, text=text.replace("o", "о")), "foreign-script"),
        "digits": (replace(one, text=f"{text} in 1984"), "digits"),
        "direction": (replace(one, text=f"{text}\u200f"), "control"),
        "mojibake": (replace(one, text=f"{text} cafÃ©"), "broken-encoding"),
        "glued": (replace(one, text=text.replace(" ", "") * 2), "long-word"),
        "fast": (replace(one, text=f"{text} " * 3), "fast-characters fast-words unusual-rate"),
        "slow": (replace(one, text="o"), "slow-characters unusual-rate"),
        "half": (replace(one, text="dawn at sea", wave=speech(4.9, 5)), "unusual-rate"),
        "short": (replace(one, text="dawn", wave=speech(0.25, 6)), "short"),
        "long": (replace(one, text=f"{text} " * 48, wave=speech(120, 7), speaker="much"), "long"),
        "clipped": (replace(one, wave=loud), "clipping"),
        "low": (replace(one, wave=wave * np.float32(0.004)), "low-level"),
        "dc": (replace(one, wave=wave + np.float32(0.05)), "dc-offset"),
        "hum": (replace(one, wave=hum), "flat-level"),
        "pause": (replace(one, text=f"{text} " * 3, wave=paused), "silence"),
        "late": (replace(one, text=f"{text} {text}", wave=np.concatenate([after, wave])), "leading-silence"),
        "early": (replace(one, text=f"{text} {text}", wave=np.concatenate([wave, after])), "trailing-silence"),
        "nameless": (replace(one, speaker=""), "no-speaker"),
        "languageless": (replace(one, language=""), "no-language"),
    }
    for number, (key, (spoken, wanted)) in enumerate(found.items()):  # each with words and noise of its own
        noise = np.random.default_rng(1000 + number).normal(0, 1e-5, len(spoken.wave)).astype(np.float32)
        wave = spoken.wave if "duplicate-audio" in wanted else spoken.wave + noise
        same_words = key in ("twin-text", "twin-audio", "slow", "half", "short", "glued")
        words = spoken.text if same_words else f"{key} {spoken.text}"
        speaker = f"speaker {number % 11}" if spoken.speaker == "speaker 3" else spoken.speaker
        found[key] = (replace(spoken, text=words, wave=wave, speaker=speaker), wanted)
    return found


def flags(path: Path) -> dict[str, set[str]]:
    """judgement: keys."""
    found = defaultdict(set)
    for row in map(json.loads, path.read_text().splitlines()):
        found[row["judgement"]].add(row["key"])
    return dict(found)


def test_every_judgement_finds_its_case_and_nothing_else(tmp_path):
    base = clean()
    cases = faulty(base)
    out = written(tmp_path / "out", base | {key: spoken for key, (spoken, _) in cases.items()})
    found = audit(out, flagged=tmp_path / "flagged.jsonl")
    assert not found.problems and not found.not_judged
    wanted = defaultdict(set)
    for key, (_, names) in cases.items():
        for name in names.split():
            wanted[name].add(key)
    wanted["speaker-imbalance"] = {"long"}
    flagged = flags(tmp_path / "flagged.jsonl")
    assert len(flagged.pop("duplicate-text")) == 2 and len(flagged.pop("duplicate-audio")) == 2  # one of each may stay
    wanted["contradiction"].add("clean-03")
    assert wanted.pop("duplicate-text") == {"twin-text", "twin-audio"} and len(wanted.pop("duplicate-audio")) == 2
    assert flagged == dict(wanted)


def test_clean_speech_raises_nothing_and_the_exit_code_says_what_was_found(tmp_path, capsys):
    out = written(tmp_path / "out", clean())
    assert main(["prep", "check", str(out), "--strict", "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    assert "all well" in printed and "none of 26 judgements found anything" in printed
    written(tmp_path / "loud", {"a": Spoken("SIX CAPITALS", speech(1, 0)), "b": Spoken("in \x1b[31mred", speech(1, 1))})
    arguments = ["prep", "check", str(tmp_path / "loud"), "--workers", "1"]
    assert main(arguments) == 0 and main([*arguments, "--strict"]) == 1
    printed = capsys.readouterr().out
    assert re.search(r'capitals +1 +50.0% +a +"SIX CAPITALS"', printed)
    assert "\\x1b[31mred" in printed and "\x1b" not in printed
    (tmp_path / "loud" / shard_name(0)).write_bytes(b"")
    assert main([*arguments, "--json", str(tmp_path / "audit.json")]) == 1
    assert "nothing in it is judged" in capsys.readouterr().out
    assert json.loads((tmp_path / "audit.json").read_bytes())["findings"] == []


def test_what_is_shared_with_other_sets_is_found_by_words_recording_and_speaker(tmp_path):
    spoken, test = clean(20), clean(20, seed=500)
    for number, (key, one) in enumerate(clean(20, seed=900).items()):
        test[key] = replace(test[key], text=f"{one.text} too {number}", speaker=f"tester {number % 3}")
    out, other = written(tmp_path / "train", spoken), tmp_path / "test"
    test["clean-00"] = replace(test["clean-00"], text=spoken["clean-05"].text.title())
    test["clean-01"] = replace(test["clean-01"], wave=spoken["clean-06"].wave)
    test["clean-02"] = replace(test["clean-02"], speaker="speaker 4")
    written(other, test)
    found = audit(out, against=(str(other),), flagged=tmp_path / "flagged.jsonl")
    assert [finding.name for finding in found.raised] == [
        f"overlap-{what} with {other}" for what in ("text", "audio", "speaker")
    ]
    assert [finding.examples[0].value for finding in found.raised][:2] == ["clean-00 there", "clean-01 there"]
    assert list(flags(tmp_path / "flagged.jsonl").values()) == [{"clean-05"}, {"clean-06"}, {"clean-04", "clean-15"}]
    quick = audit(out, CheckOptions(quick=True), against=(str(other),))
    assert len(quick.raised) == 2 and f"overlap-audio with {other}" in quick.not_judged
    (other / "shard-000000.tar").write_bytes(b"")
    broken = audit(out, against=(str(other),))
    assert str(other) in broken.problems[0] and f"overlap with {other}" in broken.not_judged


def test_a_quick_audit_decodes_nothing_and_says_what_it_does_not_judge(tmp_path, monkeypatch):
    out = written(tmp_path / "out", clean(3) | {"tag": Spoken("a word <unk>", speech(1, 9), speaker="speaker 1")})
    monkeypatch.setattr(check, "decode_media", None)
    monkeypatch.setattr(check, "read_sample", None)
    found = audit(out, CheckOptions(quick=True))
    assert [finding.name for finding in found.raised] == ["markup"] and found.measured == 4
    assert {"clipping", "silence", "duplicate-audio"} <= set(found.not_judged) and not found.problems


def test_an_utterance_that_cannot_be_read_is_a_problem_and_the_others_are_judged(tmp_path):
    out = written(tmp_path / "out", clean(6))
    index = read_index(out)
    data = bytearray((out / shard_name(0)).read_bytes())
    data[int(index.offset[2]) + 100] ^= 1
    (out / shard_name(0)).write_bytes(data)
    found = audit(out)
    assert len(found.problems) == 2 and (found.utterances, found.measured) == (6, 5)
    assert "1 utterance not read and not judged" in summary(found)


def test_workers_change_nothing(tmp_path):
    out = written(tmp_path / "out", clean(12), shard_size=3)
    changed = bytearray((out / shard_name(2)).read_bytes())
    changed[2000] ^= 1
    (out / shard_name(2)).write_bytes(changed)
    found = audit(out)
    assert found.problems and found.measured == 11 and found == audit(out, CheckOptions(workers=2))


@pytest.mark.parametrize(
    ("text", "raised"),
    [
        ("a < b and c > d, R&B & you", {}),
        ("die Straße hat 100 % Gefälle", {"digits": 3}),
        ("\u06cc\u200c\u0646", {}),  # a joiner that is spelling
        ("soft\u00adhyphen", {"control": 1}),
        ("uh&nbsp;huh <b>now</b> {um}", {"markup": 4}),
        ("a\ufffdb", {"broken": 1}),
        ("ab\ud800", {}),
        ("", {}),
    ],
)
def test_marks_in_a_transcript_are_counted(text, raised):
    measured = measure_text(text)
    assert {name: measured[name] for name in ("digits", "markup", "control", "broken") if measured[name]} == raised


def test_scripts_are_recognised_by_letters_alone():
    for text, scripts in {
        "naïve 1º µ £ ʼ": "LATIN",
        "привет": "CYRILLIC",
        "東京タワーの": "CJK, HIRAGANA, KATAKANA",
        "한국 ok": "LATIN, HANGUL",
        "12 !?": "",
        "ｆｕｌｌ": "FULLWIDTH",
    }.items():
        assert names_of(measure_text(text)["scripts"]).upper() == scripts, text
    assert measure_text("東京" * 50)["longest_word"] == 0  # no spaces are written there


@pytest.mark.parametrize(
    "arguments",
    [["--against", "."], ["--html", "nowhere/x"], ["--json", "."], ["--workers", "0"], ["--max-problems", "-1"]],
)
def test_a_mistake_is_one_line_and_exit_2(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_index(tmp_path, "audio", [], {}, {}, {})
    assert main(["prep", "check", str(tmp_path), *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_page_runs_and_fetches_nothing_whatever_the_data_say(tmp_path):
    evil = '<script>alert("1")</script><img src=https://x.example onerror=alert(1)>'
    spoken = {"a": Spoken(evil, speech(5, 0), evil, f"'{evil}"), "b": Spoken("\u202eabc <b> \u200f", speech(1, 2))}
    out = written(tmp_path / f"{evil[:8]}", spoken)
    (out / "shard-000007.tar").touch()
    text = page(audit(out))
    tags = Page(text)
    assert not {"script", "img", "link", "iframe", "b>"} & set(tags.tags) and "rect" in tags.tags
    assert not {"src", "href", "onerror", "onload"} & {name for name, _ in tags.attributes}
    assert text.count("&lt;script&gt;") >= 3 and "url(" not in text and "\u202e" not in text and "@import" not in text


def test_an_empty_set_has_a_summary_and_a_page(tmp_path):
    write_index(tmp_path, "audio", [], {}, {}, {})
    found = audit(tmp_path, flagged=tmp_path / "flagged.jsonl")
    assert found.utterances == 0 and not found.problems and not found.raised
    assert "0 utterances" in summary(found) and Page(page(found)).tags


def test_three_hundred_thousand_utterances_make_a_page_of_one_size(tmp_path):
    index = read_index(written(tmp_path / "out", {"a": Spoken("a transcript of moderate length " * 9, speech(1, 0))}))
    found = audit(tmp_path / "out")
    random, count = np.random.default_rng(0), 300_000
    rows = np.zeros(count, ROW)
    for name in ("text_hash", "audio_hash"):
        rows[name] = random.integers(1, count, count)
    rows["seconds"], rows["characters"] = random.uniform(0, 60, count), random.integers(0, 900, count)
    rows["letters"] = rows["words"] = rows["characters"]
    rows["level"] = random.uniform(-90, 0, count)
    rows["speaker"], rows["markup"] = random.integers(0, 50_000, count), 1
    measured = Measured(rows, ["en"], [f"speaker {n}" for n in range(50_000)])
    surveyed = Surveyed("out", index, [], measured)
    findings = tuple(apply("text", rule, surveyed).finding for rules in RULES.values() for rule in rules)
    speakers = breakdown(rows["speaker"], rows["seconds"], measured.speakers)
    found = replace(found, findings=findings, spreads=spreads(measured), speakers=speakers)
    assert all(len(finding.examples) <= EXAMPLES for finding in findings)
    assert sum(len(finding.examples) == EXAMPLES for finding in findings) > 5
    assert len(page(found, 50)) < 300_000 and len(canonical_json(asdict(found))) < 300_000
    assert len(summary(replace(found, problems=("x",) * count), 7).splitlines()) < 60


def test_stats_give_hours_by_language_and_speaker(tmp_path, capsys):
    out = written(tmp_path / "out", clean(14) | {"z": Spoken("a word", speech(9, 0), "de\x1b", "")})
    assert main(["prep", "stats", str(out), "--by", "language", "--by", "speaker"]) == 0
    printed = capsys.readouterr().out
    assert "utterances        15" in printed and "\nde\\x1b" in printed and "\x1b" not in printed
    assert "1 more, 1 utterance without a speaker" in printed
    assert table_by(read_index(out), "language").splitlines()[1].split() == ["en", "0.5", "min", "14"]


@pytest.mark.skipif(not SPEECH.is_dir(), reason="needs ../shared/speech")
@pytest.mark.parametrize(
    ("name", "raised"), [("librispeech", {"capitals": 51, "speaker-imbalance": 29}), ("an4/manifest.jsonl", {})]
)
def test_real_speech_raises_known_warnings_alone(name, raised, tmp_path):
    corpus = SPEECH / name
    build(IMPORTERS[recognised(corpus)[0]].read(corpus, ImportOptions()), tmp_path / "out", BuildOptions())
    found = audit(tmp_path / "out")
    assert not found.problems and {finding.name: finding.count for finding in found.raised} == raised
