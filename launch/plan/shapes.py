"""The models of a recipe by their configurations alone, and recognisers of random weights made of them."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import torch

from launch.plan.data import Utterance
from model.activation_checkpointing import checkpoint_activations
from model.adapters import AdapterSpec, build_adapter
from model.batch import Batch, cumulative
from model.encoder_layers import Layers
from model.encoders import random_encoder
from model.llm import Llm, try_packing
from model.llm.bits import weight_bytes
from model.loading import DTYPES, choose_dtype, freeze
from model.lora import LoraSpec, add_lora, lora_parameters
from model.packing import switch_to_packed
from model.skeleton import meta_models, read_config
from model.slam_asr import SlamAsr
from train.parts import lora_spec
from train.recipe.config import Config, LoraConfig, ModelConfig

NO_LORA = LoraConfig()


@dataclass(frozen=True)
class Shapes:
    """The parts of a recogniser; `encoder` and `llm` are transformers configurations."""

    recipe: ModelConfig
    encoder: Any
    encoder_layers: Layers  # those above them are not held
    llm: Any
    adapter: AdapterSpec
    lora: LoraSpec | None
    dtype: torch.dtype  # that the LLM computes in
    encoder_dtype: torch.dtype
    encoder_parameters: int
    llm_parameters: int
    llm_bytes: int  # of its weights, which may be of few bits
    adapter_parameters: int
    lora_parameters: int
    widest_module: int  # most parameters of a module of the LLM (embedding or head), which ZeRO-3 gathers whole
    frames_of: Callable[[Any], Any]  # encoder frames of so many samples
    speech_of: Callable[[Any], Any]  # speech embeddings of so many frames

    @property
    def trained_parameters(self) -> int:
        return self.adapter_parameters + self.lora_parameters

    @property
    def encoder_bytes(self) -> int:
        return self.encoder_dtype.itemsize * self.encoder_parameters

    @property
    def shardable(self) -> bool:
        """Whether ZeRO-3 can shard the LLM, which it cannot where its weights are of few bits."""
        return self.llm_bytes == self.dtype.itemsize * self.llm_parameters


def read_shapes(config: Config) -> Shapes:
    """Of a recipe's models, by their config.json. UserError where a configuration is not there, or is of an encoder
    that we do not have, and for LoRA on layers that the LLM has not."""
    m = config.model
    encoder = read_config("encoder", m.encoder, m.trust_remote_code)
    return shapes_of(encoder, read_config("LLM", m.llm, m.trust_remote_code), m, config.lora)


def shapes_of(encoder: Any, llm: Any, model: ModelConfig, lora: LoraConfig = NO_LORA) -> Shapes:
    """Of transformers configurations and what the recipe's `model` says besides; the models are made without storage.
    A dtype of `auto` is bfloat16: a plan is for GPUs that compute it."""
    m, own = model, copy.deepcopy(llm)
    parts = meta_models(encoder, llm, m.adapter.model_dump(), m.encoder_layer, m.trust_remote_code, m.encoder_window)
    frozen, words, trained = parts
    asked = (m.dtype_of_encoder, m.dtype_of_llm)
    encoder_dtype, dtype = (choose_dtype(name if name in DTYPES else "bfloat16", "cpu") for name in asked)
    llm_parameters, llm_bytes = sum(p.numel() for p in words.parameters()), weight_bytes(words, m.dtype_of_llm, dtype)
    widest = max(sum(p.numel() for p in module.parameters(recurse=False)) for module in words.modules())
    if (updates := lora_spec(lora, words)) is not None:
        add_lora(words, updates)
    return Shapes(
        recipe=m,
        encoder=encoder,
        encoder_layers=frozen.layers,
        llm=own,
        adapter=trained.spec,
        lora=updates,
        dtype=dtype,
        encoder_dtype=encoder_dtype,
        encoder_parameters=sum(p.numel() for p in frozen.parameters()),
        llm_parameters=llm_parameters,
        llm_bytes=llm_bytes,
        adapter_parameters=sum(p.numel() for p in trained.parameters()),
        lora_parameters=sum(p.numel() for p in lora_parameters(words).values()),
        widest_module=widest,
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
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    code, config = shapes.recipe.trust_remote_code, _with_layers(shapes.llm, layers or layers_of(shapes.llm))
    with device:
        llm_model = AutoModelForCausalLM.from_config(config, dtype=shapes.dtype, trust_remote_code=code)
        adapter = build_adapter(shapes.adapter)
    llm_model: Any = freeze(llm_model.to(device))
    encoder, read = None, shapes.encoder_layers
    if with_encoder:
        layer, depth = (read.kind if read.several else None, layers) if layers else (read.name, read.last)
        window = shapes.recipe.encoder_window
        encoder = random_encoder(shapes.encoder, layer, window, shapes.encoder_dtype, device, code, depth)
    llm = Llm(llm_model, None, {}, (switch_to_packed if device.type == "meta" else try_packing)(llm_model))
    if shapes.recipe.activation_checkpointing:
        checkpoint_activations(llm_model)
    if shapes.lora is not None:
        add_lora(llm_model, shapes.lora)
    prompt = SimpleNamespace(prefix_ids=[0], suffix_ids=[0] * (prompt_tokens - 1))  # no tokenizer is needed
    return SlamAsr(encoder, adapter, llm, cast(Any, prompt), layout)


def random_batch(
    shapes: Shapes, utterance: Utterance, number: int, device: torch.device, cached: bool = False
) -> Batch:
    """`number` utterances like this one, of noise: as audio or, where `cached`, as an encoder's frames."""
    keys, samples, frames = tuple(map(str, range(number))), utterance.samples * number, utterance.frames * number
    features = torch.randn(frames, shapes.adapter.frame_dim, device=device).to(shapes.encoder_dtype)
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
