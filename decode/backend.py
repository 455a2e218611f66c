"""Where the LLM computes: in this process, or on a server, `--backend vllm:URL`. Imports no torch at its top."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from data_prep.addresses import without_secrets
from model.errors import UserError, hint

if TYPE_CHECKING:
    from model.slam_asr import SlamAsr

EXAMPLE = "vllm:http://127.0.0.1:8000, or vllm:URL#MODEL if the server has the LLM under another name"


@dataclass(frozen=True)
class Backend:
    """A vLLM server, and its name of the LLM."""

    url: str  # ends in /v1
    model: str  # as /v1/models lists it; "" if it is that in adapter.json

    @property
    def shown(self) -> str:
        """For records of what a transcript depends on: without user and password."""
        return f"vllm:{without_secrets(self.url)}" + (f"#{self.model}" if self.model else "")


def parse_backend(text: str) -> Backend:
    """The server that `vllm:URL` or `vllm:URL#MODEL` names; UserError for any other text."""
    kind, _, address = text.partition(":")
    url, _, model = address.partition("#")
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        whole = False
    if kind != "vllm" or not whole or parts.query:
        near = hint(kind, ["vllm"]) if kind != "vllm" else ""
        raise UserError(f"backend {without_secrets(text)!r} is not known{near}; write {EXAMPLE}")
    url = url.rstrip("/").removesuffix("/completions")
    return Backend(url if url.endswith("/v1") else f"{url}/v1", model)


def load_model(
    path: str | Path,
    encoder: str | None,
    llm: str | None,
    *others: Any,
    backend: str | None = None,
    **options: Any,
) -> SlamAsr:
    """The recogniser of `load_for_decoding`, with its arguments; its LLM decodes on the server `backend`, and only its
    input embeddings are loaded here. UserError also for an adapter with LoRA, which the server's LLM lacks."""
    from model.weights import find_adapter, load_for_decoding, read_card

    if backend is None:
        return load_for_decoding(path, encoder, llm, *others, **options)
    server = parse_backend(backend)
    from decode.vllm.served import connect
    from model.llm.embeddings import load_embeddings

    card = read_card(find_adapter(path))
    if card.lora is not None:
        merge = "write the merged LLM with `slam-asr export --format merged`, and serve that"
        raise UserError(f"the adapter in {str(path)!r} has LoRA, and vLLM serves the LLM without it; {merge}")
    model = load_for_decoding(path, encoder, llm, *others, llm_loader=load_embeddings, **options)
    connect(model, server.url, server.model, llm or card.llm_source)
    return model
