"""NIST's sclite on ref.trn and hyp.trn gives jiwer's and our totals, overall and by speaker."""

import json
import random
import re
import subprocess
from pathlib import Path

import jiwer
import pytest

from data_prep.text import normaliser
from decode.scoring.counts import by_group, score_each
from launch.command import main
from tests.cluster.conftest import require

WORDS = ["the", "cat", "don't", "well-known", "3.5", "%", "größe", "你好", "नमस्ते", "naïve", "O'Brien", "x@y.z", "5%"]
HOSTILE = ["{", "}", "{ a / b }", "/", "@", "*", "**", "***", ";;", ";", "a;b", "a;c", "\\", "a\\", "(a)", "(", ")"]
HOSTILE += ["()", "=7B", "=7b", "%hesitation", "<unk>", "<a>", "-", "a-", "-a", "a{b", "\x00", "\x1b[31m", "(s1-u1)"]
ROW = re.compile(r"\| *(\S+) *\| *(\d+) +(\d+) *\| *(\d+) +(\d+) +(\d+) +(\d+) +(\d+) +(\d+) *\|")


def utterances(number: int) -> list[tuple[str, str, str, str]]:
    """(speaker, key, reference, hypothesis): recognition errors, silence, and characters that are special to sclite."""
    draw = random.Random(11)
    names = ["anna", "Anna", "é-x (1)", "s_1", "{b}", "", *(f"speaker{i}" for i in range(8))]
    found = []
    for i in range(number):
        said = draw.choices(WORDS + HOSTILE, k=draw.choice((0, 1, 3, 8, 20)))
        heard = []
        for word in said:
            kind = draw.random()
            heard += [word.upper()] if kind < 0.05 else [] if kind < 0.1 else [word, draw.choice(HOSTILE)]
            heard = heard[:-1] if 0.1 <= kind < 0.9 else heard
        heard = heard if said else draw.choices(HOSTILE, k=draw.choice((0, 2)))
        found.append((names[i % len(names)], f"utt {i:04}(é)" if i % 3 else f"u-{i}", " ".join(said), " ".join(heard)))
    return found


def sclite(folder: Path) -> dict[str, tuple[int, int, int]]:
    """{speaker, or "Sum": (utterances, words, errors)}."""
    files = ["-r", str(folder / "ref.trn"), "trn", "-h", str(folder / "hyp.trn"), "trn"]
    command = ["sctk", "sclite", "-s", "-e", "utf-8", "-i", "spu_id", *files, "-o", "rsum", "stdout"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    found = [match.groups() for match in map(ROW.search, done.stdout.splitlines()) if match]
    return {name: (int(sentences), int(words), int(errors)) for name, sentences, words, *_, errors, _ in found}


@pytest.mark.parametrize("name", ["verbatim", "plain", "paper"])
def test_a_thousand_hostile_utterances_have_the_same_totals(tmp_path, name):
    require("sctk")
    rows = utterances(1000)
    fields = ("speaker", "key", "reference", "hypothesis")
    lines = [json.dumps(dict(zip(fields, row, strict=True))) + "\n" for row in rows]
    (tmp_path / "texts.jsonl").write_text("".join(lines))
    same = ["--ref", str(tmp_path / "texts.jsonl"), "--hyp", str(tmp_path / "texts.jsonl")]
    assert main(["score", *same, "--normaliser", name, "--out", str(tmp_path / "out")]) == 0
    ours = json.loads((tmp_path / "out" / "score.json").read_text())["all"]
    errors = ours["substitutions"] + ours["deletions"] + ours["insertions"]
    found = sclite(tmp_path / "out")
    assert found["Sum"] == (1000, ours["words"], errors) and errors > 500
    spelt = normaliser(name)
    theirs = jiwer.process_words([spelt(row[2]) for row in rows], [spelt(row[3]) for row in rows])
    assert errors == theirs.substitutions + theirs.deletions + theirs.insertions
    speakers = by_group([row[0] for row in rows], score_each([row[2] for row in rows], [row[3] for row in rows], name))
    numbers = sorted((score.utterances, score.words, score.errors) for score in speakers.values())
    assert sorted(value for speaker, value in found.items() if speaker != "Sum") == numbers
