"""Real recordings through the whole path, where they lie beside the project: import to transcript."""

import io
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from launch.command import main
from tests import ranks
from tests.tiny import tiny_models

ROOT = Path(__file__).resolve().parents[1]
LIBRISPEECH = ROOT.parent / "shared" / "speech" / "librispeech" / "LibriSpeech"
pytestmark = pytest.mark.skipif(not LIBRISPEECH.is_dir(), reason="no real speech beside the project")


def test_librispeech_recordings_go_from_corpus_to_transcript_without_a_special_case(tmp_path):
    encoder, llm = tiny_models(tmp_path)
    shards, features = tmp_path / "shards", tmp_path / "features"
    slam_asr("prep", "import", "librispeech", LIBRISPEECH, "--out", tmp_path / "utterances.jsonl")
    slam_asr("prep", "build", tmp_path / "utterances.jsonl", shards, "--lowercase")
    slam_asr("prep", "features", shards, features, "--encoder", encoder)
    assert "all well" in slam_asr("prep", "check", features)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(encoder=encoder, llm=llm, features=features, run=tmp_path / "run"))
    ranks.train([str(recipe)], 2, tmp_path / "log")
    assert len(ranks.losses(tmp_path / "run")) == 10
    table = slam_asr("score", tmp_path / "run", shards, "--by", "speaker", "--max-new-tokens", "5")
    assert "1988" in table and " 51 " in table
    one = sorted(LIBRISPEECH.rglob("*.flac"))[0]
    assert slam_asr("transcribe", tmp_path / "run", one, "--max-new-tokens", "5").startswith(str(one))


RECIPE = """
model: {{encoder: {encoder}, llm: {llm}, adapter: {{hidden: 64}}}}
data: {{train: {features}, max_seconds: 40}}
batch: {{tokens: 1000, micro_batches: 2}}
optim: {{lr: 1e-4, warmup_steps: 2, max_steps: 10}}
log: {{every_steps: 1}}
run: {{dir: {run}}}
"""


def slam_asr(*arguments: object) -> str:
    """What the command prints; fails if it fails."""
    with redirect_stdout(io.StringIO()) as printed:
        assert main(list(map(str, arguments))) == 0
    return printed.getvalue()
