"""A stand-in of vLLM's completions endpoint: the contract of its documentation and source, `generate` underneath.

`prompt_embeds` is decoded as `vllm/renderers/embed_utils.py` of 2026 does it: strict base64, torch.load with
weights_only on the CPU, a tensor [S, H] or [1, S, H] of the model's width, cast to the model's dtype. Answers have the
fields of `CompletionResponseChoice`. By hand:

    python -m tests.decode.vllm.endpoint LLM 8000
"""

import base64
import io
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

from model.llm import Llm, load_llm

Fault = Callable[["Handler"], None]


class Refusal(Exception):
    """A status, and a message."""


class Endpoint(ThreadingHTTPServer):
    """`faults` are what the next completions do in place of an answer."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, llm: Llm, name: str, port: int = 0, enabled: bool = True, max_model_len: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.llm, self.name, self.enabled = llm, name, enabled
        self.max_model_len = max_model_len or llm.model.config.max_position_embeddings
        self.api_key, self.own_max_new_tokens = "", 0
        self.faults: list[Fault] = []
        self.gone = False  # hang up on everybody
        self.requests: list[dict[str, Any]] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def complete(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["model"] != self.name:
            raise Refusal(404, f"The model `{request['model']}` does not exist.")
        if "prompt_embeds" in request:
            embeds = self._loaded(request["prompt_embeds"])
        else:
            embeds = self.llm.model.get_input_embeddings()(torch.tensor(request["prompt"]))
        if len(embeds) + request["max_tokens"] > self.max_model_len:
            raise Refusal(400, f"This model's maximum context length is {self.max_model_len} tokens.")
        with self.lock:
            return self._generated(embeds, request)

    def _loaded(self, payload: str) -> torch.Tensor:
        if not self.enabled:
            raise Refusal(400, "You must set `--enable-prompt-embeds` to input `prompt_embeds`.")
        data = io.BytesIO(base64.b64decode(payload, validate=True))
        with torch.sparse.check_sparse_tensor_invariants():
            tensor = torch.load(data, weights_only=True, map_location=torch.device("cpu"))
            assert isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
            tensor = tensor.to_dense()
        tensor = tensor.squeeze(0) if tensor.dim() > 2 else tensor
        width = self.llm.model.config.hidden_size
        if tensor.dim() != 2 or tensor.shape[1] != width:
            raise Refusal(400, f"`prompt_embeds` of shape {tuple(tensor.shape)}: the model's hidden_size is {width}.")
        return tensor.to(self.llm.model.dtype)

    @torch.no_grad()
    def _generated(self, embeds: torch.Tensor, request: dict[str, Any]) -> dict[str, Any]:
        model, steps = self.llm.model, LogitsProcessorList()
        assert request["temperature"] == 0.0, "greedy only"
        if request["repetition_penalty"] != 1.0:
            steps.append(RepetitionPenaltyLogitsProcessor(request["repetition_penalty"]))
        ends = list(request["stop_token_ids"])
        ends += [] if request["ignore_eos"] else [self.llm.tokenizer.eos_token_id]
        most = min(filter(None, (request["max_tokens"], self.own_max_new_tokens)))
        asked = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}
        model.generation_config = GenerationConfig()
        made = model.generate(
            inputs_embeds=embeds[None],
            attention_mask=torch.ones(1, len(embeds), dtype=torch.int64),
            generation_config=GenerationConfig(max_new_tokens=most, eos_token_id=ends, pad_token_id=ends[0], **asked),
            logits_processor=steps,
        )
        ids = made.sequences[0]
        chances = torch.cat(made.logits).float().log_softmax(-1).gather(1, ids[:, None])[:, 0]
        stopped = int(ids[-1]) in ends
        choice = {"index": 0, "text": self.llm.tokenizer.decode(ids, skip_special_tokens=True)}
        choice |= {"finish_reason": "stop" if stopped else "length", "stop_reason": int(ids[-1]) if stopped else None}
        choice["logprobs"] = {
            "token_logprobs": chances.tolist(),
            "tokens": self.llm.tokenizer.convert_ids_to_tokens(ids),
        }
        choice["token_ids"] = ids.tolist() if request["return_token_ids"] else None
        return {"id": "cmpl-1", "object": "text_completion", "model": self.name, "choices": [choice]}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Endpoint  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, status: int, content: Any) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status: int, message: str) -> None:
        self.answer(status, {"error": {"message": message, "type": "Error", "param": None, "code": status}})

    def do_GET(self) -> None:
        if self.server.api_key and self.headers["Authorization"] != f"Bearer {self.server.api_key}":
            self.answer(401, {"error": "Unauthorized"})
        elif self.path == "/v1/models":
            entry = {"id": self.server.name, "root": self.server.name, "max_model_len": self.server.max_model_len}
            self.answer(200, {"object": "list", "data": [entry]})
        else:
            self.answer(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(request)
        if self.server.gone:
            self.close_connection = True
        elif self.server.faults:
            self.server.faults.pop(0)(self)
        else:
            try:
                self.answer(200, self.server.complete(request))
            except Refusal as refusal:
                self.refuse(*refusal.args)


@contextmanager
def serving(endpoint: Endpoint) -> Iterator[Endpoint]:
    thread = threading.Thread(target=endpoint.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        endpoint.gone = True
        endpoint.shutdown()
        endpoint.server_close()
        thread.join()


if __name__ == "__main__":
    source, port = sys.argv[1:]
    print(f"serving {source} at 127.0.0.1:{port}", flush=True)
    Endpoint(load_llm(source, "float32"), source, int(port)).serve_forever()
