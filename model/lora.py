"""LoRA (arXiv 2106.09685): trained low-rank matrices beside the frozen linear layers of the LLM.

A layer W x becomes W x + alpha / rank * B (A x). peft (extra `lora`) replaces the layers; A and B are float32 whatever
the LLM's dtype. B is initialised to zero, so that LoRA changes nothing before the first optimizer step.

Names: `lora.MODULE.lora_A.weight` in training, `base_model.model.MODULE.lora_A.weight` in files, as peft writes them;
MODULE is the layer's name in the LLM."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from model.errors import UserError, hint

PREFIX, PEFT_PREFIX = "lora.", "base_model.model."
OF_PEFT = ".default."  # peft's name of the only LoRA adapter, between `lora_A` and `weight`
QUERY_AND_VALUE = (
    *(("q_proj", "v_proj"), ("q_b_proj", "kv_b_proj"), ("q_proj", "kv_b_proj"), ("qkv_proj",)),
    *(("c_attn",), ("query_key_value",), ("Wqkv",)),
)
"""Names of the query and value projections: in Llama and most others, DeepSeek (two variants), Phi-3, GPT-2, GPT-NeoX
and Falcon, MPT. The paper adapts queries and values (section 7.1); fused projections contain the keys too."""


@dataclass(frozen=True)
class LoraSpec:
    """Everything but the LLM that is needed to rebuild its LoRA layers; stored in adapter.json."""

    rank: int
    alpha: float
    targets: tuple[str, ...]  # last parts of the names of the LLM's layers
    dropout: float


def linear_layers(llm: Any) -> dict[str, nn.Module]:
    """{name: layer} of the linear layers of the LLM's text decoder, without the output layer and without the image and
    audio encoders of a multimodal model."""
    from transformers.pytorch_utils import Conv1D

    decoder = set(llm.get_decoder().modules())
    return {
        name: module
        for name, module in llm.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module in decoder and module is not llm.get_output_embeddings()
    }


def find_targets(llm: Any, requested: Sequence[str]) -> tuple[str, ...]:
    """The layer names that `lora.targets` stands for in this LLM: auto = the query and value projections of attention,
    all-linear = every linear layer, else the given names. UserError for a name that matches no layer."""
    names = list(linear_layers(llm))
    known = sorted({name.rpartition(".")[2] for name in names})
    layers = f"its linear layers are {', '.join(known)}"
    if list(requested) == ["all-linear"]:
        return tuple(known)
    if list(requested) == ["auto"]:
        for group in QUERY_AND_VALUE:
            if set(group) <= set(known):
                return group
        kind = llm.config.model_type
        raise UserError(f"lora.targets is auto, but no query and value projections are found in {kind!r}; {layers}")
    for target in requested:
        if not any(_ends_with(name, [target]) for name in names):
            raise UserError(f"lora.targets: {target} is no linear layer of this LLM{hint(target, known)}; {layers}")
    return tuple(requested)


def require_peft() -> Any:
    """The package peft; UserError unless it is installed. Silences a warning about 4-bit kernels of bitsandbytes, which
    peft imports if it is installed."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    try:
        import peft
    except ImportError:
        raise UserError("LoRA needs peft, which is not installed: pip install 'slam-asr[lora]'") from None
    return peft


def add_lora(llm: Any, spec: LoraSpec) -> None:
    """Adds LoRA to the LLM's layers, in place, in eval mode. A is drawn in float32 from torch's generator on the CPU
    (seed it first), as for a new nn.Linear, so that its values do not depend on the LLM's dtype and device."""
    peft = require_peft()
    from transformers.pytorch_utils import Conv1D

    layers = {name: layer for name, layer in linear_layers(llm).items() if _ends_with(name, spec.targets)}
    options = peft.LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=spec.dropout,
        target_modules=list(layers),
        fan_in_fan_out=all(isinstance(layer, Conv1D) for layer in layers.values()),  # its weight is [in, out]
    )
    with torch.random.fork_rng(devices=[]):  # peft initialises too, in the LLM's dtype
        peft.inject_adapter_in_model(options, llm)
    llm.eval()  # the new modules too
    for name, parameter in lora_parameters(llm).items():
        initial = torch.zeros(parameter.shape)
        if ".lora_A." in name:
            nn.init.kaiming_uniform_(initial, a=math.sqrt(5))
        parameter.data = initial.to(parameter.device)


def lora_parameters(llm: nn.Module) -> dict[str, nn.Parameter]:
    """The LoRA parameters by their names in training; {} for an LLM without LoRA."""
    return {
        PREFIX + name.replace(OF_PEFT, "."): parameter
        for name, parameter in llm.named_parameters()
        if f".lora_A{OF_PEFT}" in name or f".lora_B{OF_PEFT}" in name
    }


def lora_dropouts(llm: Any) -> list[nn.Module]:
    """The dropout modules on the inputs of LoRA layers."""
    return [module.lora_dropout for module in llm.modules() if _is_lora(module)]


def load_lora(llm: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copies the LoRA weights among the trained weights into the LLM. UserError if a name or a shape differs."""
    parameters = lora_parameters(llm)
    require_same_shapes("LoRA", {name: weights[name] for name in weights if name.startswith(PREFIX)}, parameters)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


def require_same_shapes(what: str, given: Mapping[str, Tensor], expected: Mapping[str, Any]) -> None:
    """UserError with the first three names whose shapes differ, both shapes of each."""
    stored, needed = ({name: tuple(tensor.shape) for name, tensor in named.items()} for named in (given, expected))
    differ = [name for name in sorted(stored.keys() | needed.keys()) if stored.get(name) != needed.get(name)]
    if differ:
        shown = [f"{name} is {stored.get(name, 'missing')}, expected {needed.get(name, 'none')}" for name in differ]
        more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
        raise UserError(f"these {what} weights do not match the model: {'; '.join(shown[:3])}{more}")


@torch.no_grad()
def merge_lora(llm: Any) -> None:
    """Merges LoRA into the weights of the LLM's layers and removes the LoRA modules, in place. The sums are computed in
    float32 and rounded to the LLM's dtype once."""
    for name, module in list(llm.named_modules()):
        if _is_lora(module):
            layer, a, b = module.base_layer, module.lora_A["default"].weight, module.lora_B["default"].weight
            update = module.scaling["default"] * (b @ a)
            update = update.T if module.fan_in_fan_out else update
            layer.weight.copy_((layer.weight.float() + update).to(layer.weight.dtype))
            llm.set_submodule(name, layer)
    del llm.peft_config


def to_peft(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The LoRA weights among the trained weights, by peft's names in files."""
    return {
        PEFT_PREFIX + name.removeprefix(PREFIX): tensor for name, tensor in weights.items() if name.startswith(PREFIX)
    }


def from_peft(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_peft`. UserError for names that are not those of LoRA weights."""
    if other := next((name for name in weights if not name.startswith(PEFT_PREFIX)), None):
        raise UserError(f"{other} is no name of LoRA weights, which begin with {PEFT_PREFIX}")
    return {PREFIX + name.removeprefix(PEFT_PREFIX): tensor for name, tensor in weights.items()}


def peft_config(spec: LoraSpec, llm_source: str) -> dict[str, Any]:
    """The content of peft's adapter_config.json."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": llm_source,
        "r": spec.rank,
        "lora_alpha": spec.alpha,
        "lora_dropout": spec.dropout,
        "target_modules": list(spec.targets),
        "bias": "none",
        "inference_mode": True,
    }


def _ends_with(name: str, targets: Sequence[str]) -> bool:
    return any(f".{name}".endswith(f".{target}") for target in targets)


def _is_lora(module: Any) -> bool:
    return hasattr(module, "lora_dropout") and hasattr(module, "base_layer")
