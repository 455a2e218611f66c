"""A recogniser without weights: lengths, widths and identities from configurations and a tokenizer alone.

It answers what a check or a plan asks before anything is loaded: how many frames and speech embeddings an utterance
gives, how many tokens the prompt takes, how long the LLM's input may be. Its modules lie on torch's meta device.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from model.adapter import AdapterSpec, ConcatAdapter, build_adapter
from model.encoders import ENCODERS, Encoder, require_encoder_family
from model.errors import UserError
from model.llm import Llm, require_llm_type
from model.loading.hub import why_not_on_hub
from model.loading.pretrained import loading
from model.prompt import Prompt
from model.sample_rate import SAMPLE_RATE
from model.slam_asr import SlamAsr


@dataclass(frozen=True)
class MetaModels:
    """Encoder, LLM and adapter on the meta device."""

    encoder: Encoder
    llm: Any
    adapter: ConcatAdapter


def read_config(what: str, source: str, trust_remote_code: bool) -> Any:
    """A model's transformers configuration: of a folder, of the hub's cache or of the hub, in this order.

    `what` is "encoder" or "LLM". UserError where there is none, or an encoder's family is not known.
    """
    from huggingface_hub.utils import logging
    from transformers import AutoConfig

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # without the hub's lines about every new attempt
    try:
        with reading(what, source):
            try:
                config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code, local_files_only=True)
            except OSError:
                if reason := why_not_on_hub(source):
                    raise OSError(reason) from None
                config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    finally:
        logging.set_verbosity(verbosity)
    if what == "encoder":
        require_encoder_family(source, config.model_type)
    else:
        require_llm_type(source, config)
    return config


def meta_models(
    encoder: Any,
    llm: Any,
    adapter: tuple[str, int, int, float],
    layer: str | None = None,
    trust_remote_code: bool = False,
) -> MetaModels:
    """From transformers configurations; `adapter` is its type, stack, hidden width and dropout."""
    from transformers import AutoModel, AutoModelForCausalLM

    with torch.device("meta"), reading("encoder", str(encoder.model_type)):
        frozen = AutoModel.from_config(encoder, trust_remote_code=trust_remote_code)
    with torch.device("meta"), reading("LLM", str(llm.model_type)):
        words = AutoModelForCausalLM.from_config(llm, trust_remote_code=trust_remote_code)
    width = words.get_input_embeddings().embedding_dim
    with torch.device("meta"):
        trained = build_adapter(AdapterSpec(*adapter, encoder.hidden_size, width))
    return MetaModels(ENCODERS[encoder.model_type](frozen, SAMPLE_RATE, True, layer, ""), words, trained)


def skeleton(models: MetaModels, llm: str, template: str, trust_remote_code: bool = False) -> SlamAsr:
    """The recogniser of these models with the tokenizer of `llm`, a folder or hub id; it computes nothing."""
    tokenizer = read_tokenizer(llm, trust_remote_code)
    fingerprint = {"family": models.llm.config.model_type, "vocabulary": len(tokenizer)}
    words = Llm(models.llm, tokenizer, fingerprint, "it has no weights")
    return SlamAsr(models.encoder, models.adapter, words, Prompt(tokenizer, template), "padded")


def read_tokenizer(llm: str, trust_remote_code: bool = False) -> Any:
    """An LLM's tokenizer, from this machine alone; UserError where it is not there."""
    from transformers import AutoTokenizer

    with loading("LLM's tokenizer", llm):
        return AutoTokenizer.from_pretrained(llm, trust_remote_code=trust_remote_code, local_files_only=True)


@contextmanager
def reading(what: str, source: str) -> Iterator[None]:
    """Whatever the libraries answer to a configuration that is not there becomes one line."""
    try:
        yield
    except Exception as error:  # anything from OSError to TypeError, as in model/loading/pretrained.py
        if isinstance(error, (UserError, MemoryError)):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        todo = (
            f"only its config.json is needed: give model.{what.lower()}=FOLDER that holds one, or fetch it with "
            f"`hf download {source} config.json`"
        )
        if "trust_remote_code" in str(error):
            todo = "it runs code of its own; set model.trust_remote_code=true only if you trust it"
        raise UserError(f"cannot read the configuration of the {what} {source!r}: {reason}; {todo}") from error
