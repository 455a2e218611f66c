"""What recipes/real_pair ships: an adapter that finds its models, and recordings that say whose they are."""

import json
import re
from pathlib import Path

import pytest

from data_prep.audio.decode import decode
from model.frozen_parts import REAL_PAIR
from model.weights import read_adapter, read_card
from recipes.real_pair.__main__ import run

FOLDER = Path(__file__).resolve().parents[2] / "recipes" / "real_pair"
ADAPTER = FOLDER / "adapter"


def test_the_recordings_are_small_and_each_has_text_speaker_source_and_licence():
    rows = [json.loads(line) for line in (FOLDER / "recordings.jsonl").read_text().splitlines()]
    files = sorted((FOLDER / "recordings").iterdir())
    assert sorted(FOLDER / row["audio"] for row in rows) == files and len(rows) == 5
    assert sum(path.stat().st_size for path in files) <= 300_000
    readme = (FOLDER / "README.md").read_text()
    for row in rows:
        assert {"key", "text", "speaker", "language", "gender", "source", "licence"} <= row.keys()
        assert f"`{row['key']}`" in readme and row["licence"] in readme and row["source"].split(", ")[-1] in readme
        assert 1 < len(decode((FOLDER / row["audio"]).read_bytes())) / 16_000 < 10


def test_the_adapter_is_small_and_names_models_that_a_fetch_writes_below_any_folder():
    assert sum(path.stat().st_size for path in ADAPTER.rglob("*") if path.is_file()) <= 16_000_000
    card, _ = read_adapter(ADAPTER)
    assert {card.encoder["weights"], card.llm["weights"]} == REAL_PAIR
    assert card.encoder_source == "build/real_pair/whisper-tiny.en"
    assert card.llm_source == "build/real_pair/smollm2-135m-instruct"
    assert card.encoder_path == f"../../../{card.encoder_source}" and card.llm_path == f"../../../{card.llm_source}"


def test_the_adapters_readme_and_page_state_its_weights_sources_data_and_wer():
    """A mean of checkpoints of two trainings has no one recipe: origin.json has them, the page the digests."""
    card, readme = read_card(ADAPTER), (ADAPTER / "README.md").read_text()
    page = (FOLDER.parents[1] / "docs" / "real-pair.md").read_text()
    for digest in (card.weights_sha256, card.lora_sha256):
        assert len(digest) == 64 and digest in readme and digest in page
    averaged = json.loads((ADAPTER / "origin.json").read_text())["averaged"]
    assert len(averaged) == 7 and all(one["sha256"] in readme for one in averaged)
    for what in ("what the weights depend on in `sixth.yaml`", "its training data"):
        assert re.search(rf"^\| {re.escape(what)} \| `[0-9a-f]{{64}}` \|", page, re.MULTILINE)
    assert re.search(r"^\| WER \| [0-9.]+ % ", readme, re.MULTILINE)


def test_a_command_that_fails_ends_make_real_with_its_code_and_its_line(capfd):
    with pytest.raises(SystemExit) as ended:
        run("a mistake", "transcripe", "nothing.wav")
    assert ended.value.code == 2
    out, err = capfd.readouterr()
    assert out.endswith("$ slam-asr transcripe nothing.wav\n") and len(err.splitlines()) == 1
