"""Sizes of a recipe's models from their configurations only, and recognisers built from these with random weights."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import torch

from launch.plan.data import Utterance
from model.adapters import AdapterSpec, build_adapter
from model.batch import Batch, cumulative
from model.encoder_layers import Layers
from model.encoders import random_encoder
from model.llm import Llm, try_packing
from model.llm.activation_checkpointing import checkpoint_activations
from model.llm.bits import weight_bytes
from model.loading import DTYPES, choose_dtype, freeze
from model.lora import LoraSpec, add_lora, lora_parameters
from model.packing import switch_to_packed
from model.skeleton import meta_models, read_config
from model.slam_asr import SlamAsr
from train.parts import lora_spec
from train.recipe.config import Config
from train.recipe.models import LoraConfig, ModelConfig

NO_LORA = LoraConfig()


@dataclass(frozen=True)
class Shapes:
    """The parts of a recogniser; `encoder` and `llm` are transformers configurations."""

    recipe: ModelConfig
    encoder: Any
    encoder_layers: Layers  # higher layers are not loaded
    llm: Any
    adapter: AdapterSpec
    lora: LoraSpec | None
    dtype: torch.dtype  # that the LLM computes in
    encoder_dtype: torch.dtype
    encoder_parameters: int
    llm_parameters: int
    llm_bytes: int  # of its weights, which may be quantised
    adapter_parameters: int
    lora_parameters: int
    widest_module: int  # most parameters of a module of the LLM (embedding or head), which ZeRO-3 gathers whole
    frames_of: Callable[[Any], Any]  # number of samples -> number of encoder frames
    speech_of: Callable[[Any], Any]  # number of frames -> number of speech embeddings

    @property
    def trained_parameters(self) -> int:
        return self.adapter_parameters + self.lora_parameters

    @property
    def encoder_bytes(self) -> int:
        return self.encoder_dtype.itemsize * self.encoder_parameters

    @property
    def shardable(self) -> bool:
        """Whether ZeRO-3 can shard the LLM, which it cannot if the weights are quantised."""
        return self.llm_bytes == self.dtype.itemsize * self.llm_parameters


def read_shapes(config: Config) -> Shapes:
    """The shapes of a recipe's models, from their config.json. UserError if a configuration is missing or of an encoder
    family that is not supported, and for LoRA on layers that the LLM does not have."""
    m = config.model
    encoder = read_config("encoder", m.encoder, m.trust_remote_code)
    return shapes_of(encoder, read_config("LLM", m.llm, m.trust_remote_code), m, config.lora)


def shapes_of(encoder: Any, llm: Any, model: ModelConfig, lora: LoraConfig = NO_LORA) -> Shapes:
    """The shapes of two transformers configurations with the recipe's section `model`; the models are built on the meta
    device. The dtype `auto` is bfloat16: a plan is for GPUs that compute it natively."""
    m, llm_config = model, copy.deepcopy(llm)
    models = meta_models(encoder, llm, m.adapter.model_dump(), m.encoder_layer, m.trust_remote_code, m.encoder_window)
    encoder_model, llm_model, adapter = models
    requested = (m.dtype_of_encoder, m.dtype_of_llm)
    encoder_dtype, dtype = (choose_dtype(name if name in DTYPES else "bfloat16", "cpu") for name in requested)
    llm_parameters = sum(p.numel() for p in llm_model.parameters())
    llm_bytes = weight_bytes(llm_model, m.dtype_of_llm, dtype)
    widest = max(sum(p.numel() for p in module.parameters(recurse=False)) for module in llm_model.modules())
    if (spec := lora_spec(lora, llm_model)) is not None:
        add_lora(llm_model, spec)
    return Shapes(
        recipe=m,
        encoder=encoder,
        encoder_layers=encoder_model.layers,
        llm=llm_config,
        adapter=adapter.spec,
        lora=spec,
        dtype=dtype,
        encoder_dtype=encoder_dtype,
        encoder_parameters=sum(p.numel() for p in encoder_model.parameters()),
        llm_parameters=llm_parameters,
        llm_bytes=llm_bytes,
        adapter_parameters=sum(p.numel() for p in adapter.parameters()),
        lora_parameters=sum(p.numel() for p in lora_parameters(llm_model).values()),
        widest_module=widest,
        frames_of=encoder_model.out_len,
        speech_of=adapter.out_len,
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
    """The models with random weights and a prompt of `prompt_tokens` tokens; `layers` is the number of layers of
    encoder and LLM (default: all)."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    code, config = shapes.recipe.trust_remote_code, _with_layers(shapes.llm, layers or layers_of(shapes.llm))
    with device:
        llm_model = AutoModelForCausalLM.from_config(config, dtype=shapes.dtype, trust_remote_code=code)
        adapter = build_adapter(shapes.adapter)
    llm_model: Any = freeze(llm_model.to(device))
    encoder, chosen = None, shapes.encoder_layers
    if with_encoder:
        layer, depth = (chosen.kind if chosen.several else None, layers) if layers else (chosen.name, chosen.last)
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
    """`number` utterances like this one, of noise: as audio or, if `cached`, as encoder frames."""
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
