from dataclasses import asdict, replace

import numpy as np

from data_prep.durable import canonical_json
from data_prep.inspect.audit.audit import EXAMPLES, Surveyed, apply, audit, spreads
from data_prep.inspect.audit.measures import ROW, Measured
from data_prep.inspect.audit.report import page, summary
from data_prep.inspect.audit.rules import RULES
from data_prep.inspect.stats import breakdown, table_by
from data_prep.shards.index import write_index
from data_prep.shards.opening import read_index
from launch.command import main
from tests.data_prep.spoken import Spoken, clean, speech, written
from tests.data_prep.toolkits import Page


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
    rows["letters"], rows["words"], rows["level"] = (
        rows["characters"],
        rows["characters"],
        random.uniform(-90, 0, count),
    )
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
