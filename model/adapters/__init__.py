"""The trained part: encoder frames to LLM embeddings, one file and one line below for each kind.

Begin with contract.py, then concat.py, the paper's. May import the modules of model only."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from model.adapters.concat import ConcatAdapter
from model.adapters.contract import Adapter, AdapterSpec
from model.adapters.conv1d import Conv1dAdapter
from model.adapters.qformer import QFormerAdapter
from model.adapters.swiglu import SwiGluAdapter
from model.adapters.transformer import TransformerAdapter
from model.encoder_layers import layers_in_frame
from model.errors import require_known
from model.llm import embedding_dim, embedding_rms

ADAPTERS: dict[str, type[Adapter]] = {
    "concat": ConcatAdapter,
    "conv1d": Conv1dAdapter,
    "swiglu": SwiGluAdapter,
    "qformer": QFormerAdapter,
    "transformer": TransformerAdapter,
}


def build_adapter(spec: AdapterSpec) -> Adapter:
    """A freshly initialised adapter in float32; seed torch first. UserError as `require_buildable`."""
    require_buildable(asdict(spec))
    return ADAPTERS[spec.type](spec)


def require_buildable(settings: Mapping[str, Any]) -> None:
    """UserError for an unknown type, for settings that the type does not have, and for sizes that do not fit together.
    `settings` are those of a recipe's adapter."""
    require_known("adapter type", settings["type"], ADAPTERS)
    ADAPTERS[settings["type"]].require_buildable(settings)


def adapter_spec(settings: Mapping[str, Any], encoder: Mapping[str, Any], llm: Any) -> AdapterSpec:
    """The spec of a recipe's adapter between an encoder (`dim` and `layer` of its fingerprint) and an LLM. With
    `match_norm` the rms of the LLM's embeddings is measured; it is 1 for an LLM on the meta device."""
    stored = {name: value for name, value in settings.items() if name != "match_norm"}
    layers = layers_in_frame(encoder["layer"])
    return AdapterSpec(
        **stored,
        encoder_dim=encoder["dim"] // layers,
        llm_dim=embedding_dim(llm),
        weighted_layers=layers,
        output_rms=embedding_rms(llm) if settings.get("match_norm") else 0.0,
    )
