"""The adapter's files: what is saved is what is loaded, and anything else is refused in one line."""

import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from model.adapters import build_adapter
from model.batch import pack
from model.errors import UserError
from model.weights import (
    CARD,
    WEIGHTS,
    find_adapter,
    load_for_decoding,
    load_weights,
    read_adapter,
    read_card,
    save_adapter,
)
from tests.tiny import tiny_recogniser


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return tiny_recogniser(tmp_path_factory.mktemp("made"))


@pytest.fixture
def export(made, tmp_path) -> Path:
    return Path(shutil.copytree(made[1], tmp_path / "export"))


def restate(folder: Path, **fields) -> None:
    stated = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps(stated | fields))


def refusal(act, *arguments, **options) -> str:
    with pytest.raises(UserError) as caught:
        act(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_saved_is_what_decodes(made, export):
    model, folder = made
    card, weights = read_adapter(export)
    assert card.step == 7 and card.spec == model.adapter.spec and card.prompt == model.prompt.template
    assert weights.keys() == model.adapter.state_dict().keys()
    loaded = load_for_decoding(export)
    batch = pack(["a"], ["x"], [loaded.prompt.target_ids("x")], waves=[torch.randn(8000)])
    assert torch.equal(loaded(batch).loss, model(batch).loss) and not loaded.training
    assert load_for_decoding(export, with_encoder=False).encoder is None
    other = load_for_decoding(export, dtype="bfloat16")
    assert other.llm.dtype == torch.bfloat16 and next(other.adapter.parameters()).dtype == torch.float32
    save_adapter(export, weights, card)
    assert (export / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    places = {"encoder_path": card.encoder_path, "llm_path": card.llm_path}
    assert replace(read_card(export), **places) == card


def test_adapter_weights_are_stored_in_float32(made, tmp_path):
    card, weights = read_adapter(made[1])
    save_adapter(
        tmp_path, {name: tensor.bfloat16().expand(2, *tensor.shape)[1] for name, tensor in weights.items()}, card
    )
    assert all(tensor.dtype == torch.float32 for tensor in load_file(tmp_path / WEIGHTS).values())


def test_damaged_weights_are_refused(export):
    data = bytearray((export / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (export / WEIGHTS).write_bytes(data)
    assert "does not match the sha256 in adapter.json; it is damaged" in refusal(read_adapter, export)
    (export / WEIGHTS).unlink()
    assert "no adapter.safetensors in" in refusal(read_adapter, export)


class Planted:
    def __reduce__(self):
        return os.mkdir, ("unpickled",)


def test_a_pickle_is_never_opened(export, tmp_path, monkeypatch):
    from hashlib import sha256

    monkeypatch.chdir(tmp_path)
    data = pickle.dumps(Planted())
    (export / WEIGHTS).write_bytes(data)
    assert "damaged" in refusal(load_for_decoding, export)
    restate(export, weights_sha256=sha256(data).hexdigest())
    assert "is not a safetensors file" in refusal(load_for_decoding, export)
    assert not Path("unpickled").exists()


def test_an_unreadable_card_is_refused(made, export):
    whole = json.loads((export / CARD).read_text())
    spec = whole["spec"]
    cases = [
        ("is not a slam-asr-adapter file of version 1", whole | {"version": 2}),
        ("is not a slam-asr-adapter file of version 1", whole | {"format": "other"}),
        ("not a readable adapter description", {key: value for key, value in whole.items() if key != "prompt"}),
        ("not a readable adapter description", {key: value for key, value in whole.items() if key != "version"}),
        ("unexpected keyword argument 'surplus'", whole | {"surplus": 1}),
        ("unexpected keyword argument 'surplus'", whole | {"spec": spec | {"surplus": 1}}),
        ("stack is '5'", whole | {"spec": spec | {"stack": "5"}}),
        ("prompt is None", whole | {"prompt": None}),
        ("encoder is 'hubert'", whole | {"encoder": "hubert"}),
        ("not a readable adapter description", [1]),
        ("not a readable adapter description", "text"),
    ]
    for message, stated in cases:
        (export / CARD).write_text(json.dumps(stated))
        assert message in refusal(read_adapter, export)
    for data in (b"{", b"\xff\xfe", b""):
        (export / CARD).write_bytes(data)
        assert "not a readable adapter description" in refusal(read_adapter, export)


def test_weights_of_another_shape_or_name_are_refused(made):
    card, weights = read_adapter(made[1])
    other = build_adapter(replace(card.spec, hidden=32))
    assert "not match the model" in refusal(load_weights, other, weights)
    assert "not match the model" in refusal(load_weights, made[0].adapter, {**weights, "more": torch.zeros(1)})
    assert "not match the model" in refusal(
        load_weights, made[0].adapter, {"linear1.weight": weights["linear1.weight"]}
    )


def test_other_frozen_parts_are_refused_by_name_unless_their_weights_alone_may_differ(made, export, tmp_path, capsys):
    card, _ = read_adapter(export)
    for source, part in ((card.encoder_source, "encoder"), (card.llm_source, "llm")):
        shutil.copytree(source, tmp_path / part)
        change_one_value(tmp_path / part / "model.safetensors")
    moved = str(shutil.copytree(card.llm_source, tmp_path / "moved"))
    assert load_for_decoding(export, llm=moved).prompt.template == card.prompt
    message = refusal(load_for_decoding, export, encoder=str(tmp_path / "encoder"))
    assert message.startswith("the adapter was trained with another encoder: its weights is") and "/encoder" in message
    message = refusal(load_for_decoding, export, llm=str(tmp_path / "llm"))
    assert message.startswith("the adapter was trained with another LLM: its weights is") and "/llm" in message
    for part in ("encoder", "llm"):
        given: Any = {part: str(tmp_path / part)}
        assert "or accept this one with --other-weights" in refusal(load_for_decoding, export, **given)
        assert load_for_decoding(export, **given, other_weights=True).prompt.template == card.prompt
        assert f"{tmp_path / part}' has other weights than the adapter was trained with" in capsys.readouterr().err
    assert "give one, or leave it out" in refusal(load_for_decoding, export, other_weights=True)
    restate(export, llm=card.llm | {"vocabulary": 7})
    assert "its vocabulary is 7" in refusal(load_for_decoding, export, **given, other_weights=True)
    restate(export, llm=card.llm)
    restate(export, encoder=card.encoder | {"layer": 1})
    shallow = load_for_decoding(export).encoder
    assert shallow is not None and shallow.layer == 1
    restate(export, encoder=card.encoder | {"layer": 9})
    assert "encoder layer 9 does not exist" in refusal(load_for_decoding, export)


def change_one_value(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-2] ^= 1
    file.write_bytes(data)


def test_an_adapter_is_found_in_export_checkpoint_and_run(made, tmp_path):
    checkpoints = tmp_path / "run" / "checkpoints"
    for step in ("step-00000002", "step-00000010"):
        shutil.copytree(made[1], checkpoints / step)
    (checkpoints / ".tmp-step-00000011").mkdir()
    assert find_adapter(made[1]) == made[1] and find_adapter(str(checkpoints / "step-00000002")).name == "step-00000002"
    assert find_adapter(tmp_path / "run") == checkpoints / "step-00000010"
    best = checkpoints / "best"
    best.symlink_to("step-00000002")
    assert find_adapter(tmp_path / "run") == checkpoints / "step-00000002"
    for outside in (str(made[1]), "../../elsewhere", "..", "step-00000099"):
        best.unlink()
        best.symlink_to(outside)
        assert find_adapter(tmp_path / "run") == checkpoints / "step-00000010"


def test_a_folder_without_an_adapter_is_refused(made, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for path in (tmp_path, tmp_path / "nowhere", made[1] / CARD):
        assert "give a run, checkpoint or export folder" in refusal(find_adapter, path)
    assert "no adapter.json in" in refusal(read_adapter, tmp_path)
