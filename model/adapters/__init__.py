"""The trained part: encoder frames to LLM embeddings, one file and one line below for each kind.

Begin with contract.py, then concat.py, the paper's. May import the modules of model only."""

from model.adapters.concat import ConcatAdapter
from model.adapters.contract import Adapter, AdapterSpec
from model.errors import require_known

ADAPTERS: dict[str, type[Adapter]] = {"concat": ConcatAdapter}


def build_adapter(spec: AdapterSpec) -> Adapter:
    """A freshly initialised adapter in float32; seed torch first. UserError for an unknown type."""
    require_known("adapter type", spec.type, ADAPTERS)
    return ADAPTERS[spec.type](spec)
