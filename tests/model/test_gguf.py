"""A GGUF file is opened as the Hugging Face folder that it was made from."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.errors import UserError
from model.frozen_parts import relative_path
from model.gguf import gguf_cache, gguf_folder
from model.llm import load_llm
from model.loading import files_digest, place_to_open
from model.skeleton import read_config, read_tokenizer
from tests.model.tiny_gguf import write_gguf
from tests.tiny import tiny_models

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def llm(tmp_path_factory) -> Path:
    """A tiny Llama whose weights bfloat16 holds exactly."""
    from safetensors.torch import load_file, save_file

    folder = tiny_models(tmp_path_factory.mktemp("models"))[1]
    weights = {name: weight.bfloat16().float() for name, weight in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SLAM_ASR_CACHE", str(tmp_path / "cache"))


def test_logits_and_tokens_are_those_of_the_folder_it_was_made_from(llm, tmp_path):
    file = write_gguf(llm, tmp_path / "tiny.gguf", add_bos=True)
    wanted, found = load_llm(str(llm)), load_llm(file)
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        torch.testing.assert_close(found.model(ids).logits, wanted.model(ids).logits, rtol=1e-4, atol=1e-4)
    assert found.packs and found.fingerprint["family"] == "llama"
    text = "USER: the cat</s> sat"
    assert found.tokenizer.encode(text) == wanted.tokenizer.encode(text)
    special = [(t.bos_token_id, t.eos_token_id, t.pad_token_id) for t in (found.tokenizer, wanted.tokenizer)]
    assert special[0] == special[1] == (0, 1, 2)
    assert found.tokenizer.decode(found.tokenizer.encode("the cat", add_special_tokens=False)) == "the cat"
    chat = found.tokenizer.apply_chat_template([{"role": "user", "content": "the cat"}], tokenize=False)
    assert chat == "<s>the cat</s><s>"


def test_everything_that_reads_a_model_sees_the_folder(llm, tmp_path):
    file = write_gguf(llm, tmp_path / "tiny.gguf")
    folder = place_to_open("LLM", file)
    assert Path(folder).parent == gguf_cache() and read_config("LLM", file, False).hidden_size == 48
    assert len(read_tokenizer(file)) == len(read_tokenizer(str(llm))) and files_digest(file) == files_digest(folder)
    assert relative_path(file, tmp_path / "run") == "../tiny.gguf"
    assert read_tokenizer(file).encode("a")[0] != 0  # no BOS before texts where the file asks for none
    moved = Path(file).rename(tmp_path / "other.gguf")
    assert gguf_folder(str(moved)) == Path(folder)  # by content
    with pytest.raises(UserError, match="tiny.gguf.: there is no such file; give a GGUF file or a folder"):
        load_llm(file)
    with pytest.raises(UserError, match="is a GGUF file, which holds an LLM; give the encoder as a folder"):
        place_to_open("encoder", str(moved))


def test_processes_that_open_a_file_at_once_make_its_folder_once(llm, tmp_path):
    file = write_gguf(llm, tmp_path / "tiny.gguf")
    code = (
        "import os, sys; from model.gguf import gguf_folder; print(gguf_folder(sys.argv[1])); print(dict(os.environ))"
    )
    command, own = [sys.executable, "-c", code, file], {k: v for k, v in os.environ.items() if k != "DS_ACCELERATOR"}
    started = [subprocess.Popen(command, cwd=ROOT, env=own, stdout=-1, stderr=-1, text=True) for _ in range(2)]
    ended = [process.communicate(timeout=300) for process in started]
    assert ended[0][0].splitlines()[0] == ended[1][0].splitlines()[0]
    (said,) = "".join(err for _, err in ended).splitlines()
    assert "into the Hugging Face folder" in said
    assert "DS_ACCELERATOR" not in "".join(out for out, _ in ended), "whatever is started next would compute on the CPU"
    made = [path for path in gguf_cache().iterdir() if path.is_dir()]
    assert made == [Path(ended[0][0].splitlines()[0])] and (made[0] / "model.safetensors").is_file()


@pytest.mark.parametrize(
    "written, message",
    [
        ({"tokenizer": False}, "is a GGUF file without a tokenizer"),
        ({"parts": 3}, "is one of 3 parts of a split model.*llama-gguf-split --merge"),
        ({"arch": "rwkv6"}, "transformers cannot read the GGUF file .*rwkv6.*; give the Hugging Face folder"),
    ],
)
def test_a_file_that_does_not_make_an_llm_is_refused_and_leaves_nothing(llm, tmp_path, capfd, written, message):
    file = write_gguf(llm, tmp_path / "tiny.gguf", **written)
    with pytest.raises(UserError, match=message) as caught:
        load_llm(file)
    assert ("converting" in capfd.readouterr().err) == ("arch" in written)  # only transformers can say so
    assert "\n" not in str(caught.value) and not [path for path in gguf_cache().iterdir() if path.is_dir()]


def test_what_is_no_gguf_file_or_lacks_a_part_of_one_is_refused(llm, tmp_path, monkeypatch):
    whole = Path(write_gguf(llm, tmp_path / "tiny.gguf"))
    (tmp_path / "text.gguf").write_text("hello")
    (tmp_path / "short.gguf").write_bytes(whole.read_bytes()[:3000])
    with pytest.raises(UserError, match="text.gguf' is not a GGUF file"):
        load_llm(str(tmp_path / "text.gguf"))
    with pytest.raises(UserError, match="short.gguf' is a damaged GGUF file .*; fetch it again"):
        load_llm(str(tmp_path / "short.gguf"))
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match=r"needs two libraries that are not installed: pip install 'slam-asr\[gguf\]'"):
        load_llm(str(whole))
