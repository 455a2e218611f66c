"""Decoding by a stand-in of vLLM's endpoint gives the tokens of the search in this process; the checks at the start."""

import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from decode.backend import load_model, parse_backend
from decode.generate import transcripts
from decode.options import Answer, DecodeOptions
from decode.vllm.served import connect
from model.batch import Batch, pack
from model.errors import TransientError, UserError
from model.llm import load_llm
from model.slam_asr import SlamAsr
from model.weights import load_for_decoding
from slam_asr import load
from tests.decode.conftest import noise
from tests.decode.vllm.endpoint import Endpoint, serving
from tests.launch.test_command import ROOT
from tests.tiny import tiny_models

STAND_IN, LLM = ROOT / "model/stand_in/adapter", ROOT / "model/stand_in/llm"
LOOPING = noise(2, 320_000)  # 20 s of noise, to which the stand-in answers with a loop


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with serving(Endpoint(load_llm(str(LLM), "float32"), os.path.realpath(LLM))) as running:
        yield running


@pytest.fixture(autouse=True)
def as_before(endpoint) -> Iterator[None]:
    yield
    endpoint.faults, endpoint.requests, endpoint.api_key, endpoint.own_max_new_tokens = [], [], "", 0
    endpoint.enabled, endpoint.max_model_len = True, endpoint.llm.model.config.max_position_embeddings


@pytest.fixture(scope="module")
def served(endpoint) -> SlamAsr:
    return load_model(STAND_IN, None, None, "float32", "cpu", backend=f"vllm:{endpoint.url}")


@pytest.fixture(scope="module")
def own() -> SlamAsr:
    return load_for_decoding(STAND_IN, dtype="float32")


@pytest.fixture
def bare(served) -> Iterator[SlamAsr]:
    """One that has no server yet."""
    before, served.llm.served = served.llm.served, None
    yield served
    served.llm.served = before


def batch_of(waves: list[np.ndarray]) -> Batch:
    names = [f"u{i}" for i in range(len(waves))]
    return pack(names, [""] * len(waves), [[]] * len(waves), waves=[torch.from_numpy(wave) for wave in waves])


def same(found: list[Answer], expected: list[Answer]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one.text, one.note, one.tokens) == (other.text, other.note, other.tokens)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_the_tokens_are_those_of_the_search_in_this_process(served, own, endpoint):
    """29 utterances, and one whose answer loops and is searched for once more, with a penalty."""
    waves = [noise(seed, 8_000 + 1_000 * seed) for seed in range(29)]
    endpoint.requests.clear()
    for options, part in ((DecodeOptions(), waves), (DecodeOptions(max_new_tokens=300), [LOOPING])):
        same(transcripts(served, batch_of(part), options), expected := transcripts(own, batch_of(part), options))
        assert len({answer.text for answer in expected}) > len(part) // 2
    assert [answer.note for answer in expected] == ["loop"]
    assert [request["repetition_penalty"] for request in endpoint.requests] == [1.0] * 30 + [1.2]
    assert not [p for p in served.llm.parameters() if p is not served.llm.get_input_embeddings().weight]


def test_limits_penalties_and_strict_give_the_same_too(served, own):
    waves = [noise(seed, 12_000 * (seed + 1)) for seed in range(3)]
    for options in (
        DecodeOptions(max_new_tokens=5),
        DecodeOptions(repetition_penalty=1.5),
        DecodeOptions(strict=True),
    ):
        same(transcripts(served, batch_of(waves), options), transcripts(own, batch_of(waves), options))


def test_a_request_states_all_that_a_generation_config_could_change(served, endpoint):
    transcripts(served, batch_of([noise(0, 16_000)]), DecodeOptions())
    [request] = endpoint.requests
    payload = request.pop("prompt_embeds")
    assert len(payload) < 60_000, "the file holds one utterance, not its batch"
    assert json.loads(json.dumps(request)) == {
        **{"model": os.path.realpath(LLM), "temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "seed": 0},
        **{"n": 1, "max_tokens": 33, "ignore_eos": True, "stop_token_ids": [served.prompt.eos_id]},
        **{"logprobs": 0, "return_token_ids": True, "repetition_penalty": 1.0},
    }


def test_echoes_and_refusals_keep_their_first_answer(served, endpoint, monkeypatch):
    """A server cannot forbid sequences of tokens."""
    monkeypatch.setattr("decode.generate.fault_of", lambda text, template: "echo")
    endpoint.requests.clear()  # of the checks at the start
    [answer] = transcripts(served, batch_of([noise(0, 16_000)]), DecodeOptions())
    assert answer.note == "echo" and answer.text and len(endpoint.requests) == 1


def test_beams_and_a_servers_own_limit_are_refused(served, endpoint):
    with pytest.raises(UserError, match="^beams 2: with --backend vllm the search is greedy"):
        transcripts(served, batch_of([noise(0, 16_000)]), DecodeOptions(beams=2))
    endpoint.own_max_new_tokens = 3
    with pytest.raises(UserError, match="ended an answer at 3 of 33 tokens, .* --generation-config vllm"):
        transcripts(served, batch_of([noise(0, 16_000)]), DecodeOptions())


def test_the_servers_context_is_a_limit(endpoint, own):
    endpoint.max_model_len = 60
    served = load(STAND_IN, device="cpu", backend=f"vllm:{endpoint.url}/v1").model
    assert served.max_positions == 60 and (own.max_positions or 0) > 60
    [answer] = transcripts(served, batch_of([noise(1, 48_000)]), DecodeOptions(max_new_tokens=1000))
    assert answer.tokens


def test_what_the_server_lacks_is_named_at_the_start(bare, endpoint, monkeypatch):
    def refused(name: str = "", url: str = "", error: type[UserError] = UserError) -> str:
        with pytest.raises(error) as raised:
            connect(bare, url or f"{endpoint.url}/v1", name, str(LLM))
        assert "\n" not in str(raised.value)
        return str(raised.value)

    nobody = refused(url="http://127.0.0.1:9/v1", error=TransientError)
    assert "vLLM at http://127.0.0.1:9/v1 cannot be used: " in nobody and "start it, `vllm serve LLM --enable" in nobody
    assert f"has no model 'stand_in/lm'; it serves {endpoint.name}" in refused("stand_in/lm")
    monkeypatch.setattr(endpoint, "name", "asr-llm")
    assert "serves asr-llm, and the adapter's LLM is" in refused()
    assert refused().endswith("if 'asr-llm' is this LLM, write --backend vllm:URL#asr-llm")
    assert "no model 'asr-lm', did you mean asr-llm?" in refused("asr-lm")
    assert connect(bare, f"{endpoint.url}/v1", "asr-llm", str(LLM)) == "asr-llm" == bare.llm.served.name
    monkeypatch.setattr(endpoint, "enabled", False)
    assert refused("asr-llm").endswith("takes no prompt embeddings; start it with --enable-prompt-embeds")
    monkeypatch.setattr(endpoint, "enabled", True)
    monkeypatch.setattr(endpoint, "api_key", "secret")
    assert "asks for a key: set VLLM_API_KEY" in refused("asr-llm")
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    connect(bare, f"{endpoint.url}/v1", "asr-llm", str(LLM))


def test_a_server_with_another_llm_is_told_by_its_embeddings(bare, endpoint, tmp_path, monkeypatch):
    _, other = tiny_models(tmp_path)
    with serving(Endpoint(load_llm(str(other), "float32"), "other")) as wide:
        with pytest.raises(UserError, match=r"refuses a request: HTTP status 400, .*the model's hidden_size is 48"):
            connect(bare, f"{wide.url}/v1", "other", str(LLM))
    embed = endpoint.llm.model.get_input_embeddings()
    with torch.no_grad():
        monkeypatch.setattr(embed, "weight", torch.nn.Parameter(embed.weight.flip(0), requires_grad=False))
    with pytest.raises(UserError, match="has other input embeddings than the adapter's LLM; serve that LLM"):
        connect(bare, f"{endpoint.url}/v1", "", str(LLM))


def test_an_llm_here_that_is_not_the_adapters_is_refused(tmp_path):
    refused: list[tuple[dict[str, Any], str]] = [
        ({"llm_dtype": "int8"}, "--llm-dtype int8 quantises an LLM in this process; vLLM has options of its own"),
        ({"llm": str(tiny_models(tmp_path)[1])}, "another LLM: its dim is 192, that of .* is 48"),
    ]
    for options, message in refused:
        with pytest.raises(UserError, match=message):
            load(STAND_IN, backend="vllm:http://127.0.0.1:9", device="cpu", **options)


def test_an_adapter_with_lora_is_refused(tmp_path):
    card = json.loads((STAND_IN / "adapter.json").read_text())
    card["lora"] = {"rank": 2, "alpha": 4.0, "targets": ["q_proj"], "dropout": 0.0}
    (tmp_path / "adapter.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match=r"has LoRA, and vLLM serves the LLM without it; .* export --format merged"):
        load(tmp_path, backend="vllm:http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("given", "url", "model"),
    [
        ("vllm:http://127.0.0.1:8000", "http://127.0.0.1:8000/v1", ""),
        ("vllm:http://127.0.0.1:8000/v1/completions", "http://127.0.0.1:8000/v1", ""),
        ("vllm:https://host/llm/v1/#org/LLM-1B", "https://host/llm/v1", "org/LLM-1B"),
    ],
)
def test_backends_are_parsed(given, url, model):
    assert parse_backend(given) == (found := parse_backend(given)) and (found.url, found.model) == (url, model)


@pytest.mark.parametrize("given", ["http://x", "vlm:http://x", "vllm:", "vllm:host:8000", "vllm:http://x:y", "vllm"])
def test_other_backends_are_refused_in_one_line(given):
    with pytest.raises(UserError, match=r"is not known.*; write vllm:http://127.0.0.1:8000, or vllm:URL#MODEL if"):
        parse_backend(given)
    assert "secret" not in parse_backend("vllm:http://me:secret@x").shown
