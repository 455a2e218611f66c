"""The page is read here with html.parser, as a browser without scripts would: what it holds, and that nothing of a
transcript becomes an element, an attribute or an address."""

import math
import random
import re
from html.parser import HTMLParser

import pytest

from decode.report.page import LISTED_BYTES, render
from decode.scoring.counts import ALIGNER, Score, score_each
from model.errors import UserError

WORDS = "the cat sat on a mat and then it saw two small birds in the old tree".split()
VOID = {"meta", "br", "hr", "img", "input", "link"}
TAGS = set(
    "a audio b bdi body caption dd del details div dl dt em figcaption figure h1 h2 h3 head header html i ins li main "
    "meta nav ol p path rect section span style summary svg table tbody td text th thead title tr".split()
)
ATTRIBUTES = set(
    "aria-hidden aria-label charset class colspan content controls d dir height href http-equiv id lang name open "
    "preload preserveaspectratio role scope src text-anchor viewbox width x y".split()
)
HOSTILE = (
    "<script>alert(1)</script>",
    "</style></title><img src=x onerror=alert(1)>",
    "\"' onmouseover=\"alert(1)\" {{ 7 * 7 }} {% include 'x' %} <!-- ]]> &lt; &#60;script>",
    "\u202eevil\u202c \u2066isolated \x00\x07\x1b[31m \ufeff \ud800 \uffff",
    "w" * 10_000,
    "\u0643\u062a\u0628 \u0627\u0644\u0648\u0644\u062f",
    "https://example.org/x.js url(https://example.org) @import",
)


class Page(HTMLParser):
    """What a browser would see."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.text = list[str](), list[str](), list[tuple[str, str | None]](), ""
        self.feed(html)
        self.close()
        assert self.open == []  # every element is closed

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    def values(self, name: str) -> list[str]:
        return [value or "" for key, value in self.attributes if key == name]


def rows_of(number: int, seed: int = 0, **also) -> list[dict]:
    rng = random.Random(seed)
    rows = []
    for i in range(number):
        reference = rng.choices(WORDS, k=rng.randrange(4, 30))
        hypothesis = [rng.choice(WORDS) if rng.random() < 0.2 else word for word in reference if rng.random() > 0.05]
        facts = {
            "speaker": f"s{i % 40}",
            "seconds": 0.4 * len(reference),
            "confidence": rng.random(),
            "note": "",
            "flags": [],
        }
        rows.append(
            {"key": f"u{i:05d}", "reference": " ".join(reference), "hypothesis": " ".join(hypothesis), **facts, **also}
        )
    return rows


def score_of(rows: list[dict], **also) -> dict:
    scores = score_each([row["reference"] for row in rows], [row["hypothesis"] for row in rows])
    by: dict[str, Score] = {}
    for row, one in zip(rows, scores, strict=True):
        by[row.get("speaker", "")] = by.get(row.get("speaker", ""), Score()) + one
    whole = sum(scores, Score()).as_json() | {"interval": [0.1, 0.2]}
    groups = {name: one.as_json() | {"interval": [0.05, 0.4]} for name, one in by.items()}
    return {
        **{"adapter": "runs/mine", "step": 1500, "shards": "data/dev", "normaliser": "plain", "aligner": ALIGNER},
        **{"all": whole, "by": {"speaker": groups}, "normalisers": {"plain": whole, "verbatim": whole}},
        **{"rates": {"loops": 3, "silent_utterances": 4, "hallucinated_utterances": 1}, "notes": {"cut": 2}},
        **{"decoding": {"seconds": 10.0, "audio_seconds": 500.0, "rtfx": 50.0, "ranks": 2}},
        **also,
    }


def curves() -> list[dict]:
    train = [{"step": i, "kind": "train", "loss": 9 / (i + 1), "accuracy": i / 2000, "lr": 1e-4} for i in range(2000)]
    return [*train, *({"step": i, "kind": "dev", "loss": 1.0, "wer": 1 - i / 2500} for i in range(500, 2001, 500))]


def test_two_thousand_utterances_stay_below_five_megabytes():
    rows = rows_of(2000)
    html = render(rows, score_of(rows[:400]), curves=curves())
    assert len(html.encode()) < 5e6
    text = Page(html).text
    assert all(text.count(row["key"]) for row in rows)
    facts = ("runs/mine, step 1,500", "10.00 to 20.00", "RTFx", "plain", ALIGNER, "28 more", "of the errors", "25.0")
    assert [fact for fact in facts if fact not in text] == []


def test_the_size_is_limited_for_any_texts():
    rows, long = rows_of(400), "\u202e<&" * 30
    for row in rows:
        row |= {"key": row["key"] + long, "hypothesis": f"{long} " * 60, "reference": f"{long}. " * 60}
    score = score_of(rows[:1]) | {"normaliser": "verbatim"}
    html = render(rows, score, (rows_of(300), score))
    assert len(html.encode()) < LISTED_BYTES + 2e6
    assert "all are in results.jsonl" in html


def test_a_transcript_never_becomes_markup():
    rows = rows_of(40)
    for i, row in enumerate(rows):
        nasty = HOSTILE[i % len(HOSTILE)]
        row |= {"key": f"{i} {nasty}", "hypothesis": f"{row['hypothesis']} {nasty}", "speaker": nasty, "note": nasty}
        row |= {"reference": f"{nasty} {row['reference']}" if i % 2 else "", "flags": [nasty]}
    score = score_of(rows, adapter=HOSTILE[0], shards=HOSTILE[1], extra=HOSTILE[2], against={HOSTILE[0]: HOSTILE[1]})
    score |= {"notes": {HOSTILE[1]: 3}, "rates": {HOSTILE[2]: 1}}
    records = [{"step": 1, "kind": HOSTILE[1], "loss": 1.0}, {"step": 2, "kind": HOSTILE[0], "loss": 2.0}]
    for normaliser in ("verbatim", "plain"):
        html = render(rows, score | {"normaliser": normaliser}, (rows_of(40), score), records)
        page = Page(html)
        assert set(page.tags) <= TAGS and {name for name, _ in page.attributes} <= ATTRIBUTES
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff\uffff]", html)
        assert "<U+202E>evil" in page.text and "(10,000 characters)" in page.text and "{{ 7 * 7 }}" in page.text
        assert html.count("<style>") == html.count("</style>") == html.count("</title>\n<style>") == 1
        assert len(max(page.text.split(), key=len)) < 200


def test_nothing_is_loaded_and_nothing_runs():
    rows = rows_of(30)
    html = render(rows, score_of(rows), (rows_of(30, 1), score_of(rows)), curves(), lambda key: b"fLaC" + key.encode())
    page = Page(html)
    policy = next(value for value in page.values("content") if "default-src" in value)
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:")
    assert all(address.startswith("data:audio/flac;base64,") for address in page.values("src"))
    assert set(page.values("href")) <= {f"#{name}" for name in page.values("id")}
    assert "http" not in html.replace("http-equiv", "").replace("https://example", "")
    assert not {"script", "link", "iframe", "object", "form"} & set(page.tags)
    assert not re.search(r"url\(|@import|javascript:", html)


def test_clips_of_the_worst_utterances_are_bounded_in_number_and_size():
    rows, asked = rows_of(100), []

    def audio(key: str) -> bytes | None:
        asked.append(key)
        return None if len(asked) == 1 else b"fLaC" + bytes(400_000)

    html = render(rows, score_of(rows), audio=audio)
    assert len(asked) == 20
    assert html.count('<audio controls preload="none"') == 9  # of 533 kB each, in 5 MB
    assert len(html.encode()) < 10e6


@pytest.mark.parametrize(
    "rows", [[], rows_of(1), rows_of(25, seconds=2), [row | {"reference": ""} for row in rows_of(3)]]
)
def test_reports_on_few_utterances_none_or_no_words(rows):
    whole = Score().as_json() | {"interval": None, "wer": math.nan, "cer": None}
    bare = {"normaliser": "plain", "all": whole, "by": {"speaker": {"": whole}}, "rates": {"loops": math.nan}}
    for score in (bare, {"normaliser": "plain"}, score_of(rows)):
        page = Page(render(rows, score, (rows, score), [{"step": 1, "loss": None}], lambda key: None))
        assert "nan" not in page.text.split() and "None" not in page.text


def test_rows_of_texts_only():
    rows = [{name: row[name] for name in ("key", "reference", "hypothesis")} for row in rows_of(50)]
    page = Page(render(rows, {"normaliser": "plain", "hypotheses": "hyp.jsonl", "all": score_of(rows)["all"]}))
    assert "hyp.jsonl" in page.text and "confidence" not in page.text and "speaker" not in page.text
    assert "figure" not in page.tags


def test_an_unknown_normaliser_is_named():
    with pytest.raises(UserError, match="plane.*did you mean 'plain'"):
        render([], {"normaliser": "plane"})
