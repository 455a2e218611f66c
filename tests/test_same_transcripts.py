"""Python, the command, transformers, the server and vLLM's route give the same texts, which tests/same_transcripts.py
compares, here on three recordings with the stand-ins."""

import sys

from tests.same_transcripts import WAYS, main


def test_every_way_gives_the_same_text(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["", "model/stand_in/adapter", "recipes/real_pair/recordings", "--clips", "3"])
    assert main() == 0
    said = capsys.readouterr().out
    assert [line.split(":")[0] for line in said.splitlines() if line.endswith(", 0 differ")] == list(WAYS)
