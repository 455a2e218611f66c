"""Every adapter trains: the same losses in a ZeRO stage that shards, the same bits after kill -9, and an export that
decodes. The paper's does so in the other tests, with more of each."""

import signal

import pytest

from launch.command import main
from model.adapters import ADAPTERS
from model.weights import read_card
from tests import ranks
from tests.accidents import Signalled
from tests.train.runs import assert_same, command, run

OWN = {"qformer": ["model.adapter.queries=2"], "transformer": ["model.adapter.layers=1"]}


@pytest.mark.parametrize("type", sorted(ADAPTERS.keys() - {"concat"}))
def test_an_adapter_trains_sharded_or_not_is_resumed_and_decodes(ground, tmp_path, type, capsys):
    given = [f"model.adapter.type={type}", *OWN.get(type, []), "model.adapter.match_norm=true", "optim.max_steps=4"]
    given += [f"data.train={ground / 'features'}", "model.dtype=float32"]
    run(ground, tmp_path / "straight", *given)
    run(ground, tmp_path / "sharded", *given, world=2, stage=2 if type == "swiglu" else 3)
    losses = ranks.losses(tmp_path / "straight")
    assert ranks.losses(tmp_path / "sharded") == pytest.approx(losses, rel=1e-5)
    assert len(losses) == 4 == len(set(losses))
    arguments = command(ground, tmp_path / "run", *given)
    killed = ranks.start(arguments, 1, tmp_path / "log", before=Signalled(signal.SIGKILL, (0,), nth=4))
    assert killed.wait() == [-signal.SIGKILL], killed.text()
    assert "resuming from" in ranks.train(arguments, 1, tmp_path / "log")
    assert_same(tmp_path / "run", tmp_path / "straight", 4)
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    spec = read_card(tmp_path / "out").spec
    assert spec.type == type and spec.output_rms == pytest.approx(0.5, rel=0.05)  # tests/tiny.py's initializer_range
    score = ["score", str(tmp_path / "out"), str(ground / "features"), "--max-new-tokens", "2"]
    assert main(score) == 0, capsys.readouterr().err
