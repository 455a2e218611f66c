from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep.audio.decode import write_flac
from data_prep.build.build import BuildOptions, build
from data_prep.features.build import build_features
from data_prep.shards.opening import read_index
from data_prep.utterance import Utterance
from model.encoders import load_encoder
from tests.tiny import tiny_models
from tests.train.runs import run

Straight = Callable[..., Path]
WORDS = "the cat sat on a mat and looked at nine birds by the old mill".split()


SHORT_RECIPE = """\
model: {encoder: models/hubert, llm: models/llama}
data:
  train: data/train
optim:
  lr: 1e-4
  max_steps: 100
run: {dir: runs/one}
"""


@pytest.fixture
def recipe(tmp_path) -> Path:
    """A file with the keys that must be given, and lr."""
    path = tmp_path / "recipe.yaml"
    path.write_text(SHORT_RECIPE)
    return path


@pytest.fixture(scope="session")
def ground(tmp_path_factory):
    return make_ground(tmp_path_factory.mktemp("ground"))


@pytest.fixture(scope="session")
def straight(ground, tmp_path_factory) -> Straight:
    """The folder of the run of so many ranks, a ZeRO stage and overrides that nothing happened to."""
    done: dict[tuple[int | str, ...], Path] = {}

    def folder(world: int = 1, stage: int = 0, *overrides: str) -> Path:
        if (world, stage, *overrides) not in done:
            done[world, stage, *overrides] = path = tmp_path_factory.mktemp("straight") / "run"
            run(ground, path, *overrides, world=world, stage=stage)
        return done[world, stage, *overrides]

    return folder


def make_ground(folder: Path) -> Path:
    """Fills a folder: tiny models (encoder, llm), shards of 24 utterances (shards), their features, shards of 6 others
    (dev), recipe.yaml."""
    encoder, _ = tiny_models(folder)
    random = np.random.default_rng(0)
    spoken = [speak(folder, f"utt-{number:03d}", random) for number in range(24)]
    build(spoken, folder / "shards", BuildOptions(shard_size=10))
    build([speak(folder / "held-out", f"dev-{number}", random) for number in range(6)], folder / "dev", BuildOptions())
    build_features(read_index(folder / "shards"), load_encoder(str(encoder)), folder / "features")
    (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder))
    return folder


def speak(folder: Path, key: str, random: np.random.Generator) -> Utterance:
    """0.4 to 2.4 s of noise with a transcript of a few words."""
    samples = int(random.uniform(0.4, 2.4) * 16000)
    path = folder / "audio" / f"{key}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_flac(path, (random.standard_normal(samples) * 0.1).astype(np.float32))
    return Utterance(key, str(path), " ".join(random.choice(WORDS, random.integers(1, 7))))


RECIPE = """
model:
  encoder: {folder}/encoder
  llm: {folder}/llm
  adapter: {{hidden: 64, dropout: 0.2}}
data: {{train: "{folder}/shards"}}
batch: {{tokens: 200, micro_batches: 4}}
optim: {{lr: 2e-4, warmup_steps: 3, max_steps: 8}}
eval: {{wer: false}}
save: {{every_steps: 2, total_limit: null}}
log: {{every_steps: 1}}
run: {{dir: {folder}/run, seed: 3, collective_timeout_seconds: 600, stall_seconds: 300}}
"""
