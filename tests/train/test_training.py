"""Real trainings on one to three ranks, with tiny models: what must not depend on how a recipe is run."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from data_prep.build.in_place import ForeignOptions, index_in_place
from data_prep.features.build import build_features
from data_prep.shards.opening import read_index
from launch.command import main
from model.encoders import load_encoder
from model.weights import load_for_decoding
from tests import ranks
from tests.data_prep.reading import read_utterance
from tests.tiny_encoders import tiny_encoder
from tests.train.runs import run
from train import parts


@pytest.fixture(scope="module")
def short(ground, tmp_path_factory):
    """Two steps of one rank with ZeRO 0, packed, in either precision: what the table is compared with."""
    folder = tmp_path_factory.mktemp("short")
    for dtype in ("float32", "bfloat16"):
        run(ground, folder / dtype, "optim.max_steps=2", f"model.dtype={dtype}")
    return folder


CELLS = [(1, 2), (1, 3), (2, 0), (2, 1), (2, 3), (3, 0), (3, 2), (3, 3)]
CELLS = [(world, stage, "packed", "float32") for world, stage in CELLS]
CELLS += [(3, 1, "packed", "bfloat16"), (2, 3, "packed", "bfloat16")]
CELLS += [(3, 1, "padded", "float32"), (2, 2, "padded", "float32"), (2, 3, "recomputed", "float32")]
"""Every number of ranks and every stage, most with each other; some of the other precision, of padded, the slow
reference, and of packed with activation checkpointing."""


@pytest.mark.parametrize(("world", "stage", "layout", "dtype"), CELLS)
def test_ranks_zero_stages_and_layouts_give_one_loss_and_one_gradient(
    ground, short, tmp_path, world, stage, layout, dtype
):
    """4 micro-batches a step: accumulation 4 on one rank is 2 on two ranks, and 3 ranks have two empty places.

    Of bfloat16 only the first step is compared, in which the adapter is the same: AdamW then steps by the sign even of
    gradients that are nothing but rounding, which differs from one kind of CPU to the next.
    """
    folder = tmp_path / "run"
    exact = dtype == "float32"
    steps = 2 if exact else 1
    way = "model.activation_checkpointing=true" if layout == "recomputed" else f"batch.layout={layout}"
    given = (f"optim.max_steps={steps}", f"model.dtype={dtype}", way)
    run(ground, folder, *given, world=world, stage=stage)
    reference = short / dtype
    losses, expected = ranks.losses(folder), ranks.losses(reference)[:steps]
    assert losses == pytest.approx(expected, rel=1e-5 if exact else 2e-3)
    norms, expected = (ranks.losses(path, figure="grad_norm")[:steps] for path in (folder, reference))
    assert norms == pytest.approx(expected, rel=1e-4 if exact else 3e-2)
    if not exact:
        return
    weights = load_file(reference / "checkpoints" / "step-00000002" / "adapter.safetensors")
    for name, tensor in load_file(folder / "checkpoints" / "step-00000002" / "adapter.safetensors").items():
        # AdamW takes steps of the size of the learning rate (2e-4) whatever the gradient's: a sign that differs shows.
        assert (tensor - weights[name]).abs().max() < 1e-5, name


def test_an_encoder_that_cpus_get_wrong_in_bfloat16_trains_in_float32_and_that_is_said_once(ground, tmp_path, capfd):
    source = tiny_encoder(tmp_path, "hubert", num_conv_pos_embedding_groups=4)
    given = (f"model.encoder={source}", "model.dtype=bfloat16", "optim.max_steps=1")
    said = run(ground, tmp_path / "live", *given, world=2)
    assert said.count("the encoder is computed in float32") == 1 and "8 channels a group" in said
    features, shards = str(tmp_path / "features"), str(ground / "shards")
    assert main(["prep", "features", shards, features, "--encoder", source, "--dtype", "bfloat16"]) == 0
    assert capfd.readouterr().err.count("the encoder is computed in float32") == 1
    assert read_index(features).fingerprint["dtype"] == "float32"
    run(ground, tmp_path / "cached", *given, f"data.train={features}")
    for name in ("live", "cached"):
        card = json.loads((tmp_path / name / "checkpoints" / "step-00000001" / "adapter.json").read_text())
        assert card["encoder"]["dtype"] == "float32"
    adapter = str(tmp_path / "live")
    assert main(["score", adapter, shards, "--dtype", "bfloat16", "--max-new-tokens", "2"]) == 0
    assert capfd.readouterr().err.count("the encoder is computed in float32") == 1


def test_the_learning_rate_that_the_engine_holds_is_the_schedules(straight):
    assert ranks.losses(straight(), figure="lr") == pytest.approx([2e-4 / 3, 4e-4 / 3, *[2e-4] * 6])


def test_a_run_goes_on_with_another_number_of_ranks_and_another_stage(ground, straight, tmp_path):
    """2 ranks with ZeRO 3, 1 with ZeRO 0, 3 with ZeRO 1, 4 with ZeRO 2: optimizer state moves between all of them."""
    for world, stage, steps in ((2, 3, 2), (1, 0, 4), (3, 1, 6), (4, 2, 8)):
        run(ground, tmp_path / "run", f"optim.max_steps={steps}", world=world, stage=stage)
    assert ranks.losses(tmp_path / "run") == pytest.approx(ranks.losses(straight()), rel=1e-5)


def test_cached_features_train_as_audio_does_to_the_precision_of_the_cache(ground, straight, tmp_path):
    run(ground, tmp_path / "run", f"data.train={ground / 'features'}", "model.dtype=float32")
    assert ranks.losses(tmp_path / "run") == pytest.approx(ranks.losses(straight()), rel=2e-3)


def test_a_cached_mean_of_layers_in_eight_bits_trains_as_the_live_one_does(ground, tmp_path):
    encoder = load_encoder(str(ground / "encoder"), "mean")
    build_features(read_index(ground / "shards"), encoder, tmp_path / "features", "int8")
    given = ["model.encoder_layer=mean:1-2", "model.dtype=float32", "optim.max_steps=4"]
    run(ground, tmp_path / "live", *given)
    run(ground, tmp_path / "cached", *given, f"data.train={tmp_path / 'features'}")
    live = ranks.losses(tmp_path / "live")
    assert ranks.losses(tmp_path / "cached") == pytest.approx(live, rel=2e-2)
    wrong = ["model.encoder_layer=2", *given[1:], f"data.train={tmp_path / 'features'}"]
    assert "layer is mean:1-2" in run(ground, tmp_path / "wrong", *wrong, expected=2)


def test_whisper_trains_live_as_from_features_of_the_same_window_and_layers_alone(ground, tmp_path):
    whisper, features = tiny_encoder(tmp_path, "whisper"), tmp_path / "features"
    made = ["--layer", "weighted:2-3", "--window", "cut", "--feature-dtype", "float32", "--yes"]
    assert main(["prep", "features", str(ground / "shards"), str(features), "--encoder", whisper, *made]) == 0
    given = [f"model.encoder={whisper}", "model.encoder_layer=weighted:2-3", "model.encoder_window=cut"]
    given += ["model.dtype=float32", "optim.max_steps=3", "augment.feature_masks=1"]
    run(ground, tmp_path / "live", *given)
    run(ground, tmp_path / "cached", *given, f"data.train={features}")
    assert ranks.losses(tmp_path / "cached") == pytest.approx(ranks.losses(tmp_path / "live"), rel=1e-5)
    for other, words in (
        ("model.encoder_window=null", "their window is cut, the recipe's padded; set model.encoder_window: cut, or"),
        ("model.encoder_layer=weighted", "their layer is weighted:2-3, the recipe's weighted:1-3; set model.encoder_l"),
    ):
        assert words in run(ground, tmp_path / "wrong", *given, f"data.train={features}", other, expected=2)
    decoding = load_for_decoding(tmp_path / "live").encoder
    assert decoding is not None and (decoding.window, decoding.layer, decoding.dim) == ("cut", "weighted:2-3", 64)


def without_encoder(rank):
    """Loading one fails."""

    def load(*_):
        raise AssertionError("an encoder was loaded")

    parts.load_encoder = load


def test_training_from_cached_features_loads_no_encoder(ground, tmp_path):
    given = f"data.train={ground / 'features'}", "optim.max_steps=1"
    run(ground, tmp_path / "run", *given, before=without_encoder)
    shutil.copytree(ground / "encoder", tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text((ground / "encoder" / "config.json").read_text() + " ")
    elsewhere = f"model.encoder={tmp_path / 'other'}"
    said = run(ground, tmp_path / "other run", *given, elsewhere, expected=1, before=without_encoder)
    assert "an encoder was loaded" in said  # files that differ are not trusted to hold the same weights
    card = json.loads((tmp_path / "run" / "checkpoints" / "step-00000001" / "adapter.json").read_text())
    assert card["encoder"] == load_encoder(str(ground / "encoder")).fingerprint()


def test_a_tar_that_plain_tar_wrote_trains_where_it_lies(ground, tmp_path):
    folder, index = tmp_path / "files", read_index(ground / "shards")
    shutil.copytree(ground / "audio", folder)
    for i, key in enumerate(index.key):
        (folder / f"{key}.txt").write_text(read_utterance(index, i).text)
    subprocess.run(["tar", "cf", str(tmp_path / "all.tar"), "-C", str(folder), "."], check=True)
    index_in_place([tmp_path / "all.tar"], tmp_path / "in place", ForeignOptions())
    run(ground, tmp_path / "run", f"data.train={tmp_path / 'in place'}", "optim.max_steps=2", world=2)
    assert len(ranks.losses(tmp_path / "run")) == 2
    assert sorted(read_index(tmp_path / "in place").samples) == sorted(index.samples)


def test_validation_is_the_same_on_any_number_of_ranks(ground, tmp_path):
    watched = [f"data.dev={ground / 'dev'}", "data.max_dev_samples=5", "eval.wer=true", "eval.max_new_tokens=5"]
    watched += ["eval.tokens=100", "eval.every_steps=4", "save.best=loss"]
    for name, world, stage in (("one", 1, 0), ("three", 3, 3)):
        run(ground, tmp_path / name, *watched, world=world, stage=stage)
        assert len((tmp_path / name / "dev" / "step-00000008.jsonl").read_text().splitlines()) == 5
    for figure in ("loss", "accuracy", "wer"):
        one, three = (ranks.losses(tmp_path / name, "dev", figure) for name in ("one", "three"))
        assert one == pytest.approx(three, rel=1e-4) and len(one) == 2
    four, eight = ranks.losses(tmp_path / "one", "dev", "loss")
    best = {(tmp_path / name / "checkpoints" / "best").readlink() for name in ("one", "three")}
    assert best == {Path("step-00000008" if eight < four else "step-00000004")}


def test_the_best_by_one_figure_is_not_the_best_by_another(ground, tmp_path):
    watched = [f"data.dev={ground / 'dev'}", "data.max_dev_samples=5"]
    run(ground, tmp_path / "run", *watched, "optim.max_steps=2", "save.best=accuracy")  # kept as -accuracy, under 0
    run(ground, tmp_path / "run", *watched, "optim.max_steps=4", "save.best=loss")
    assert (tmp_path / "run" / "checkpoints" / "best").readlink() == Path("step-00000004")


def test_epochs_checkpoints_by_epoch_and_tensorboard(ground, tmp_path):
    switches = ["save.strategy=epoch", "optim.max_steps=null", "optim.epochs=2", "log.tensorboard=true"]
    run(ground, tmp_path / "run", *switches, "data.max_train_samples=12", world=2)
    steps = len(ranks.losses(tmp_path / "run"))
    epochs = ranks.losses(tmp_path / "run", figure="epoch")
    saved = [int(path.name[5:]) for path in sorted((tmp_path / "run" / "checkpoints").glob("step-*"))]
    assert saved == [0, epochs.count(0), steps] and set(epochs) == {0, 1}
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


def test_augmented_training_is_the_same_on_any_number_of_ranks_and_differs_from_epoch_to_epoch(ground, tmp_path):
    changed = ["augment.speed=[0.9, 1.0, 1.1]", "augment.noise_share=0.5", "augment.silence_share=0.3"]
    changed += ["augment.time_masks=2", "augment.feature_masks=1", "watch.every_steps=2", "optim.max_steps=6"]
    for name, world in (("one", 1), ("three", 3)):
        run(ground, tmp_path / name, *changed, world=world)
    assert ranks.losses(tmp_path / "one") == pytest.approx(ranks.losses(tmp_path / "three"), rel=1e-5)
    run(ground, tmp_path / "plain", "optim.max_steps=6")
    assert ranks.losses(tmp_path / "one")[0] != pytest.approx(ranks.losses(tmp_path / "plain")[0], rel=1e-4)
    lines = (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()
    assert ["audio_gap" in json.loads(line) for line in lines] == [False, True] * 3
