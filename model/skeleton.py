"""A recogniser without weights: lengths, widths and fingerprints from configurations and a tokenizer only.

For checks and plans before anything is loaded: how many frames and speech embeddings an utterance gives, how many
tokens the prompt takes, how long the LLM's input may be. Its modules are on torch's meta device."""

from typing import Any

import torch

from model.adapters import Adapter, adapter_spec, build_adapter
from model.encoders import Encoder, random_encoder, require_encoder_family
from model.gguf import is_gguf
from model.llm import Llm, require_llm_type
from model.loading import loading, place_to_open, why_not_on_hub
from model.prompt import Prompt
from model.slam_asr import SlamAsr


def read_config(what: str, source: str, trust_remote_code: bool) -> Any:
    """The transformers configuration of an "encoder" or "LLM", from a folder, the hub's cache or the hub, in this
    order. UserError if there is none, or if it is of a model of another kind."""
    from transformers import AutoConfig

    with _reading(what, source):
        place = place_to_open(what, source) if is_gguf(source) else source
        try:
            config = AutoConfig.from_pretrained(place, trust_remote_code=trust_remote_code, local_files_only=True)
        except OSError:
            if reason := why_not_on_hub(source):
                raise OSError(reason) from None
            config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    if what == "encoder":
        require_encoder_family(source, config.model_type)
    else:
        require_llm_type(source, config)
    return config


def meta_models(
    encoder: Any,
    llm: Any,
    adapter: dict[str, Any],
    layer: str | None = None,
    trust_remote_code: bool = False,
    window: str | None = None,
) -> tuple[Encoder, Any, Adapter]:
    """Encoder, LLM and adapter of transformers configurations; `adapter` are the recipe's settings of model.adapter."""
    from transformers import AutoModelForCausalLM

    with _reading("encoder", str(encoder.model_type)):
        frozen = random_encoder(encoder, layer, window, trust_remote_code=trust_remote_code)
    with torch.device("meta"), _reading("LLM", str(llm.model_type)):
        llm_model = AutoModelForCausalLM.from_config(llm, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        trained = build_adapter(adapter_spec(adapter, {"dim": frozen.dim, "layer": frozen.layer}, llm_model))
    return frozen, llm_model, trained


def skeleton(
    models: tuple[Encoder, Any, Adapter],
    llm: str,
    prompt: tuple[str, str | None, str | None],
    trust_remote_code: bool = False,
) -> SlamAsr:
    """The recogniser of these models with the tokenizer of `llm`, a folder, GGUF file or hub id, and a prompt of these
    texts (as Prompt takes them); it computes nothing."""
    (encoder, llm_model, adapter), tokenizer = models, read_tokenizer(llm, trust_remote_code)
    return SlamAsr(encoder, adapter, Llm(llm_model, tokenizer, {}), Prompt(tokenizer, *prompt), "padded")


def read_tokenizer(llm: str, trust_remote_code: bool = False) -> Any:
    """An LLM's tokenizer, from local files only; UserError if there is none."""
    from transformers import AutoTokenizer

    with loading("LLM's tokenizer", llm):
        place = place_to_open("LLM", llm) if is_gguf(llm) else llm
        return AutoTokenizer.from_pretrained(place, trust_remote_code=trust_remote_code, local_files_only=True)


def _reading(what: str, source: str) -> Any:
    advice = f"only its config.json is needed: give model.{what.lower()}=FOLDER that holds one, or fetch it with "
    return loading(f"configuration of the {what}", source, f"{advice}`hf download {source} config.json`")
