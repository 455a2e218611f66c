"""An adapter finds its encoder and its LLM again, wherever it and they have been moved to."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from decode.export.adapter import export
from model.errors import UserError
from model.frozen_parts import ON_THE_HUB, REAL_PAIR, relative_path
from model.weights import CARD, load_for_decoding, read_adapter, read_card, save_adapter
from tests.tiny import tiny_recogniser

STAND_IN = Path(__file__).parents[2] / "model" / "stand_in"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with encoder, llm and adapter."""
    return tiny_recogniser(tmp_path_factory.mktemp("made"))[1].parent


@pytest.fixture
def project(made, tmp_path, monkeypatch) -> Path:
    """A project whose recipe named models/encoder and models/llm; it is the current directory."""
    project = tmp_path / "a" / "project"
    for name in ("encoder", "llm"):
        shutil.copytree(made / name, project / "models" / name)
    monkeypatch.chdir(project)
    card, weights = read_adapter(made / "adapter")
    checkpoint = project / "runs" / "one" / "checkpoints" / "step-00000007"
    checkpoint.mkdir(parents=True)
    save_adapter(checkpoint, weights, replace(card, encoder_source="models/encoder", llm_source="models/llm"))
    return project


def restate(adapter: Path, **fields: object) -> None:
    stated = json.loads((adapter / CARD).read_text()) | fields
    (adapter / CARD).write_text(json.dumps({name: value for name, value in stated.items() if value is not None}))


def test_a_project_that_was_moved_finds_its_models_from_any_folder(project, tmp_path, monkeypatch, capsys):
    card = read_card(project / "runs/one/checkpoints/step-00000007")
    assert (card.encoder_source, card.llm_source) == ("models/encoder", "models/llm")
    assert card.encoder_path == "../../../../models/encoder"
    export("runs/one", "shared/digits")
    assert read_card(project / "shared/digits").llm_path == "../../models/llm"
    moved = project.rename(tmp_path / "elsewhere")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    for adapter in (moved / "runs" / "one", moved / "shared" / "digits"):
        assert load_for_decoding(adapter).encoder is not None
    assert capsys.readouterr().err == ""
    export(moved / "runs" / "one", tmp_path / "copy")
    assert read_card(tmp_path / "copy").encoder_path == "../elsewhere/models/encoder"
    export(moved / "runs" / "one", moved / "shared" / "digits")  # is there already: the same


def test_another_folder_of_the_same_name_is_passed_over(project, tmp_path, monkeypatch):
    (tmp_path / "other" / "models" / "encoder").mkdir(parents=True)
    shutil.copytree(project / "models" / "llm", tmp_path / "other" / "models" / "llm")
    weights = tmp_path / "other" / "models" / "llm" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-2] ^= 1
    weights.write_bytes(data)
    monkeypatch.chdir(tmp_path / "other")
    recogniser = load_for_decoding(project / "runs" / "one")
    assert recogniser.encoder is not None
    assert recogniser.encoder.source.startswith(str(project / "runs"))


def test_models_that_were_moved_are_found_by_their_weights(project, tmp_path, monkeypatch, capsys):
    adapter = Path(shutil.move(project / "runs/one/checkpoints/step-00000007", tmp_path / "a" / "digits"))
    encoder = (project / "models" / "encoder").rename(tmp_path / "a" / "hubert")
    (adapter / "llm").mkdir()
    llm = (project / "models" / "llm").rename(adapter / "llm" / "tiny")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    (encoder / "planted.py").write_text("open('ran', 'w').close()\n")
    config = json.loads((encoder / "config.json").read_text())
    (encoder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoConfig": "planted.Config"}}))
    load_for_decoding(adapter, trust_remote_code=True)
    assert not Path("ran").exists()  # the code of a folder that nobody named
    lines = capsys.readouterr().err.splitlines()
    assert [str(place) in line for place, line in zip((encoder, llm), lines, strict=True)] == [True, True]
    assert "'models/encoder'" in lines[0] and "'models/llm'" in lines[1]


def test_models_in_the_hubs_cache_are_found(project, tmp_path, monkeypatch, capsys):
    from huggingface_hub import constants

    for name in ("encoder", "llm"):
        place = tmp_path / "x" / "cache" / f"models--some--{name}" / "snapshots" / "abc"
        shutil.move(project / "models" / name, place)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "x" / "cache"))
    load_for_decoding(project / "runs" / "one")
    assert "models--some--encoder" in capsys.readouterr().err


def test_what_is_nowhere_is_one_line(project, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    adapter = project / "runs/one/checkpoints/step-00000007"
    restate(adapter, encoder=read_card(adapter).encoder | {"weights": "0123456789abcdef"})
    with pytest.raises(UserError, match="its weights is 0123456789abcdef.*'models/encoder'"):
        load_for_decoding(adapter)  # the folder that is stated is another model
    (project / "models" / "encoder").rename(project / "encoder")
    with pytest.raises(UserError) as caught:
        load_for_decoding(adapter)
    for part in ("0123456789ab ", "'models/encoder'", str(adapter), str(tmp_path / "cache"), "--encoder", "--llm"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_real_pair_that_is_not_there_is_fetched_or_taken_from_the_hub(project, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    adapter = project / "runs/one/checkpoints/step-00000007"
    (project / "models").rename(tmp_path / "away")
    for weights in REAL_PAIR:
        restate(adapter, encoder=read_card(adapter).encoder | {"weights": weights})
        with pytest.raises(UserError, match=f"`slam-asr fetch real-pair` .* from the Hugging Face hub: {ON_THE_HUB}$"):
            load_for_decoding(adapter)


def test_an_adapter_of_an_older_version_opens_from_any_folder(tmp_path, monkeypatch, capsys):
    assert "encoder_path" not in (STAND_IN / "adapter" / CARD).read_text()
    monkeypatch.chdir(tmp_path)
    assert load_for_decoding(STAND_IN / "adapter").encoder is not None
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and str(STAND_IN / "encoder") in lines[0] and str(STAND_IN / "llm") in lines[1]


def test_only_a_folder_with_something_in_common_has_a_relative_path(tmp_path):
    (tmp_path / "models").mkdir()
    assert relative_path(str(tmp_path / "models"), tmp_path / "run") == "../models"
    assert relative_path(str(tmp_path / "nothing"), tmp_path / "run") == ""
    assert relative_path("facebook/hubert-base-ls960", tmp_path / "run") == ""
    assert relative_path(str(tmp_path / "models"), Path("/proc/self")) == ""


def test_a_path_in_adapter_json_that_is_not_relative_is_refused(project):
    adapter = project / "runs/one/checkpoints/step-00000007"
    for wrong in ("/etc", 5):
        restate(adapter, encoder_path=wrong)
        with pytest.raises(UserError, match="encoder_path is"):
            read_card(adapter)
