"""The models of a recipe by their configurations alone, and recognisers of random weights made of them."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import torch

from launch.plan.data import Utterance
from model.adapters import AdapterSpec, build_adapter
from model.batch import Batch, cumulative
from model.encoders import ENCODER_FAMILIES
from model.llm import Llm, try_packing
from model.llm.bits import weight_bytes
from model.loading import DTYPES, choose_dtype, freeze
from model.packing import switch_to_packed
from model.sample_rate import SAMPLE_RATE
from model.skeleton import meta_models, read_config
from model.slam_asr import SlamAsr
from train.recipe.config import AdapterConfig, ModelConfig


@dataclass(frozen=True)
class Shapes:
    """The parts of a recogniser; `encoder` and `llm` are transformers configurations."""

    encoder: Any  # with as many layers as are read; those above them are not held
    llm: Any
    adapter: AdapterSpec
    dtype: torch.dtype  # that the LLM computes in
    encoder_dtype: torch.dtype
    encoder_parameters: int
    llm_parameters: int
    llm_bytes: int  # of its weights, which may be of few bits
    adapter_parameters: int
    widest_module: int  # most parameters of a module of the LLM (embedding or head), which ZeRO-3 gathers whole
    trust_remote_code: bool
    frames_of: Callable[[Any], Any]  # encoder frames of so many samples
    speech_of: Callable[[Any], Any]  # speech embeddings of so many frames

    @property
    def encoder_bytes(self) -> int:
        return self.encoder_dtype.itemsize * self.encoder_parameters

    @property
    def shardable(self) -> bool:
        """Whether ZeRO-3 can shard the LLM, which it cannot where its weights are of few bits."""
        return self.llm_bytes == self.dtype.itemsize * self.llm_parameters


def read_shapes(model: ModelConfig) -> Shapes:
    """Of a recipe's models, by their config.json. `auto` is bfloat16: a plan is for GPUs that compute it. UserError
    where a configuration is not there, or is of an encoder that we do not have."""
    encoder = read_config("encoder", model.encoder, model.trust_remote_code)
    llm = read_config("LLM", model.llm, model.trust_remote_code)
    asked = (model.dtype_of_encoder, model.dtype_of_llm)
    heard, computed = (choose_dtype(name if name in DTYPES else "bfloat16", "cpu") for name in asked)
    layer, code = model.encoder_layer, model.trust_remote_code
    return shapes_of(encoder, llm, model.adapter, computed, layer, code, heard, model.dtype_of_llm)


def shapes_of(
    encoder: Any,
    llm: Any,
    adapter: AdapterConfig,
    dtype: torch.dtype,
    layer: str | None = None,
    trust_remote_code: bool = False,
    encoder_dtype: torch.dtype | None = None,
    llm_dtype: str = "auto",
) -> Shapes:
    """Of transformers configurations and an adapter between them; the models are made without storage. The encoder is
    of `dtype` too unless `encoder_dtype` is given, the LLM's weights unless `llm_dtype` is of few bits."""
    own = copy.deepcopy(encoder)  # making the encoder changes the attention that its configuration names
    parts = meta_models(encoder, llm, adapter.model_dump(), layer, trust_remote_code)
    frozen, words, trained = parts
    return Shapes(
        _with_layers(own, frozen.layers.last),
        copy.deepcopy(llm),
        trained.spec,
        dtype,
        encoder_dtype or dtype,
        encoder_parameters=sum(p.numel() for p in frozen.parameters()),
        llm_parameters=sum(p.numel() for p in words.parameters()),
        llm_bytes=weight_bytes(words, llm_dtype, dtype),
        adapter_parameters=sum(p.numel() for p in trained.parameters()),
        widest_module=max(sum(p.numel() for p in m.parameters(recurse=False)) for m in words.modules()),
        trust_remote_code=trust_remote_code,
        frames_of=frozen.out_len,
        speech_of=trained.out_len,
    )


def layers_of(config: Any) -> int:
    return config.get_text_config().num_hidden_layers


def _with_layers(config: Any, layers: int) -> Any:
    config = copy.deepcopy(config)
    config.get_text_config().num_hidden_layers = layers
    return config


def random_recogniser(
    shapes: Shapes,
    device: torch.device,
    prompt_tokens: int,
    *,
    with_encoder: bool = True,
    layout: Any = "packed",
    layers: int | None = None,
) -> SlamAsr:
    """The models with random weights and a prompt of so many tokens; `layers` cuts encoder and LLM to so many."""
    from transformers import AutoModel, AutoModelForCausalLM

    def build(auto_class: Any, config: Any, dtype: torch.dtype) -> Any:
        config, code = _with_layers(config, layers or layers_of(config)), shapes.trust_remote_code
        with device:
            model = auto_class.from_config(config, dtype=dtype, trust_remote_code=code)
        return freeze(model.to(device))  # transformers makes an encoder's masked_spec_embed on the CPU all the same

    torch.manual_seed(0)
    llm_model = build(AutoModelForCausalLM, shapes.llm, shapes.dtype)
    with device:
        adapter = build_adapter(shapes.adapter)
    family, encoder = ENCODER_FAMILIES[shapes.encoder.model_type], None
    if with_encoder:
        heard = build(AutoModel, shapes.encoder, shapes.encoder_dtype)
        encoder = freeze(family(heard, SAMPLE_RATE, True, None, "random"))
    llm = Llm(llm_model, None, {}, (switch_to_packed if device.type == "meta" else try_packing)(llm_model))
    prompt = SimpleNamespace(prefix_ids=[0], suffix_ids=[0] * (prompt_tokens - 1))  # no tokenizer is needed
    return SlamAsr(encoder, adapter, llm, cast(Any, prompt), layout)


def random_batch(
    shapes: Shapes, utterance: Utterance, number: int, device: torch.device, cached: bool = False
) -> Batch:
    """`number` utterances like this one, of noise: as audio or, where `cached`, as an encoder's frames."""
    keys, samples, frames = tuple(map(str, range(number))), utterance.samples * number, utterance.frames * number
    features = torch.randn(frames, shapes.adapter.encoder_dim, device=device).to(shapes.encoder_dtype)
    return Batch(
        keys=keys,
        texts=keys,
        audio=None if cached else 0.1 * torch.randn(samples, device=device),
        audio_cu=cumulative([0 if cached else utterance.samples] * number),
        features=features if cached else None,
        feature_cu=cumulative([utterance.frames if cached else 0] * number),
        targets=torch.zeros(number * utterance.targets, dtype=torch.int64, device=device),
        target_cu=cumulative([utterance.targets] * number),
    )
