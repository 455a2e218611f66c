"""The mean of checkpoints: exact, whatever their order, and of equal adapters alone."""

import shutil
from dataclasses import replace

import pytest
import torch

from decode.export.adapter import export
from decode.export.average import export_averaged
from model.errors import UserError
from model.lora import LoraSpec
from model.weights import load_for_decoding, read_adapter, read_card, save_adapter

LORA = LoraSpec(2, 4.0, ("q_proj",), 0.1)


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """A run with three checkpoints, with LoRA."""
    folder, generator = tmp_path_factory.mktemp("run"), torch.Generator().manual_seed(3)
    card, weights = read_adapter(tiny.adapter)
    for step in (10, 20, 30):
        place = folder / "checkpoints" / f"step-{step:08d}"
        place.mkdir(parents=True)
        lora = {}
        for layer in (0, 1):
            start = f"lora.model.layers.{layer}.self_attn.q_proj"
            lora[f"{start}.lora_A.weight"] = torch.randn(2, 48, generator=generator)
            lora[f"{start}.lora_B.weight"] = torch.randn(48, 2, generator=generator)
        moved = {
            name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator) for name, tensor in weights.items()
        }
        save_adapter(place, moved | lora, replace(card, lora=LORA, step=step))
    return folder


def checkpoints(run):
    return sorted((run / "checkpoints").iterdir())


def test_the_mean_is_exact_and_its_order_does_not_matter(run, tmp_path):
    first, second, third = checkpoints(run)
    card = export_averaged([first, second, third], tmp_path / "out")
    again = export_averaged([third, first, second], tmp_path / "again")
    assert card.digest == again.digest == export_averaged([run], tmp_path / "out", last=3).digest
    assert card.step == 30 and card.lora == LORA
    _, mean = read_adapter(tmp_path / "out")
    parts = [read_adapter(folder)[1] for folder in (first, second, third)]
    for name, tensor in mean.items():
        expected = torch.stack([part[name].double() for part in parts]).mean(0)
        torch.testing.assert_close(tensor, expected.float(), rtol=2e-7, atol=1e-12)
    assert load_for_decoding(tmp_path / "out").adapter.spec == card.spec
    shutil.rmtree(tmp_path / "again")
    export(tmp_path / "out", tmp_path / "again")  # an export of an export still says what was averaged
    for step, folder in ((10, first), (20, second), (30, third)):
        for place in ("out", "again"):
            assert f"step {step}, `{read_card(folder).digest}`" in (tmp_path / place / "README.md").read_text()


def test_the_last_checkpoints_of_a_run(run, tmp_path):
    card = export_averaged([run], tmp_path / "last", last=2)
    assert card.digest == export_averaged(checkpoints(run)[1:], tmp_path / "named").digest
    for sources, last, message in (
        ([run], 4, "--last is 4, .* kept 3 checkpoints; give 2 to 3"),
        ([run], 1, "--last is 1"),
        ([run, run], 2, "for the checkpoints of one run, 2 sources are named"),
        ([checkpoints(run)[0]], 2, "is none; name several sources"),
        ([tmp_path / "nowhere"], 2, "there is no such folder"),
        ([run], None, "the mean of one checkpoint, .* is that checkpoint; name several, or a run and --last N"),
        ([run, checkpoints(run)[2]], None, "have the same weights; name each checkpoint once"),
    ):
        with pytest.raises(UserError, match=message):
            export_averaged(sources, tmp_path / "out", last)
    assert not (tmp_path / "out").exists()


def test_unequal_adapters_are_refused_with_the_first_difference(run, tmp_path):
    first, second, _ = checkpoints(run)
    card, weights = read_adapter(first)
    for changed, message in (
        ({"prompt": "<speech> Text:"}, "its prompt is '<speech> Text:', that of .* is 'USER: <speech>"),
        ({"llm": card.llm | {"weights": "0"}}, "its LLM weights is '0'"),
        ({"encoder": card.encoder | {"layer": 1}}, "its encoder layer is 1"),
        ({"spec": replace(card.spec, hidden=32)}, "its adapter hidden is 32"),
        ({"lora": replace(LORA, alpha=8.0)}, "its LoRA alpha is 8.0"),
        ({"lora": None}, "its LoRA .* is None"),
    ):
        shutil.rmtree(tmp_path / "other", ignore_errors=True)
        (tmp_path / "other").mkdir()
        save_adapter(tmp_path / "other", weights, replace(card, **changed))
        with pytest.raises(UserError, match=message):
            export_averaged([tmp_path / "other", second], tmp_path / "out")
    shutil.rmtree(tmp_path / "other")
    (tmp_path / "other").mkdir()
    wider = weights | {"linear1.bias": torch.zeros(3)}
    save_adapter(tmp_path / "other", wider, card)
    with pytest.raises(UserError, match="these averaged weights do not match .*linear1.bias is "):
        export_averaged([tmp_path / "other", second], tmp_path / "out")
    assert not (tmp_path / "out").exists()
