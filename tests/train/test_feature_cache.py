"""Features kept while training: real runs over two epochs, with kills, limits and a full disk."""

import errno
import importlib
from signal import SIGKILL

import pytest

from data_prep.shards.opening import read_index
from model.encoders import load_encoder
from tests import ranks
from tests.accidents import Signalled
from tests.train.runs import command, run

TWO_EPOCHS = ("optim.max_steps=null", "optim.epochs=2")


def keep(folder, dtype="float32"):
    return (*TWO_EPOCHS, f"data.write_features={folder}", f"data.feature_dtype={dtype}")


@pytest.fixture(scope="module")
def plain(ground, tmp_path_factory):
    """Two epochs of one rank that keeps nothing."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    run(ground, folder, *TWO_EPOCHS)
    return ranks.losses(folder)


def test_the_second_epoch_reads_what_the_first_one_kept_and_learns_the_same(ground, plain, tmp_path):
    said = run(ground, tmp_path / "run", *keep(tmp_path / "features"), world=2)
    assert "the encoder is not used any more" in said
    assert ranks.losses(tmp_path / "run") == pytest.approx(plain, rel=1e-5)
    kept, audio = read_index(tmp_path / "features"), read_index(ground / "shards")
    assert sorted(kept.key) == sorted(audio.key) and kept.kind == "features"
    encoder = load_encoder(str(ground / "encoder"))
    assert int(kept.frames.sum()) == int(encoder.out_len(audio.samples).sum())


def test_a_killed_run_keeps_on_and_another_number_of_ranks_too(ground, plain, tmp_path):
    arguments = command(ground, tmp_path / "run", *keep(tmp_path / "features"))
    for world, nth in ((2, 2), (1, 2)):  # each dies in the second step that it takes
        log = tmp_path / f"{world}.log"
        ranks.start(arguments, world, log, before=Signalled(SIGKILL, tuple(range(world)), nth=nth)).wait()
    said = ranks.train(arguments, 3, tmp_path / "last.log")
    assert "the encoder is not used any more" in said
    assert ranks.losses(tmp_path / "run") == pytest.approx(plain, rel=1e-5)
    again = ranks.train([*arguments, "optim.epochs=3"], 1, tmp_path / "more.log")
    assert "the encoder is not used any more" in again  # a run that goes on in a later epoch reads from the start


def test_what_the_recipe_leaves_out_is_encoded_after_all_unless_it_is_much(ground, tmp_path):
    second, longest = sorted(read_index(ground / "shards").samples / 16000)[-2:]
    limits = (f"data.max_seconds={(second + longest) / 2:.4f}", "data.over_length=drop", *TWO_EPOCHS)
    for name, more, expected in (
        ("few", (), "the encoder is not used any more"),
        ("many", ("data.max_train_samples=12",), "goes on"),
    ):
        kept = (f"data.write_features={tmp_path / name}", "data.feature_dtype=int8")
        said = run(ground, tmp_path / f"run-{name}", *limits, *kept, *more, world=2)
        assert expected in said, said
    assert len(read_index(tmp_path / "few")) == 24
    assert not (tmp_path / "many" / "index.json").exists()


def full_disk(rank):
    """Frames of the second rank find no space."""

    def no_space(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    if rank == 1:
        monkeypatched = importlib.import_module("data_prep.features.writer").FeatureWriter
        monkeypatched.write = no_space


def test_a_full_disk_ends_the_keeping_and_not_the_run(ground, plain, tmp_path):
    said = run(ground, tmp_path / "run", *keep(tmp_path / "features"), world=2, before=full_disk)
    assert "no longer kept: No space left" in said, said
    assert ranks.losses(tmp_path / "run") == pytest.approx(plain, rel=1e-5)
    assert not (tmp_path / "features" / "index.json").exists()


def test_what_cannot_be_kept_is_refused_before_anything_is_trained(ground, tmp_path):
    said = run(ground, tmp_path / "run", *keep(ground / "features"), expected=2)
    assert "give another directory" in said and "--overwrite" not in said
    said = run(ground, tmp_path / "noisy", *keep(tmp_path / "new"), "augment.noise_share=0.5", expected=2)
    assert "data.write_features" in said and not (tmp_path / "new").exists()
    said = run(ground, tmp_path / "cached", *keep(tmp_path / "new"), f"data.train={ground / 'features'}", expected=2)
    assert "data.train holds features" in said
