"""LoRA (arXiv 2106.09685): trained updates of low rank beside the frozen linear layers of the LLM.

A layer W x becomes W x + alpha / rank * B (A x). peft (extra `lora`) replaces the layers; A and B are float32 whatever
the LLM's dtype. B begins at zero, so that the LLM computes what it did before until the first update.

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
OF_PEFT = ".default."  # peft's name of the one set of updates, between `lora_A` and `weight`
QUERY_AND_VALUE = (("q_proj", "v_proj"), ("qkv_proj",), ("c_attn",), ("query_key_value",), ("Wqkv",))
"""What attention's projections are called: in Llama and most others, Phi-3, GPT-2, GPT-NeoX and Falcon, MPT. The paper
adapts queries and values (section 7.1); a fused projection has the keys in it."""


@dataclass(frozen=True)
class LoraSpec:
    """What rebuilds the updates, beside the LLM: stored in adapter.json."""

    rank: int
    alpha: float
    targets: tuple[str, ...]  # last parts of the names of the LLM's layers
    dropout: float


def linear_layers(llm: Any) -> dict[str, nn.Module]:
    """{name: layer} of the linear layers of the LLM's text decoder; the output layer, and the towers of a model that
    also sees or hears, are not among them."""
    from transformers.pytorch_utils import Conv1D

    decoder = set(llm.get_decoder().modules())
    return {
        name: module
        for name, module in llm.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module in decoder and module is not llm.get_output_embeddings()
    }


def find_targets(llm: Any, wanted: Sequence[str]) -> tuple[str, ...]:
    """The names that `lora.targets` stands for in this LLM: auto = the attention's query and value projections,
    all-linear = every linear layer, else names as they are. UserError for one that is none of its layers."""
    names = list(linear_layers(llm))
    known = sorted({name.rpartition(".")[2] for name in names})
    layers = f"its linear layers are {', '.join(known)}"
    if list(wanted) == ["all-linear"]:
        return tuple(known)
    if list(wanted) == ["auto"]:
        for group in QUERY_AND_VALUE:
            if set(group) <= set(known):
                return group
        kind = llm.config.model_type
        raise UserError(f"lora.targets is auto, but no query and value projections are known of {kind!r}; {layers}")
    for target in wanted:
        if not any(_ends_with(name, [target]) for name in names):
            raise UserError(f"lora.targets: {target} is no linear layer of this LLM{hint(target, known)}; {layers}")
    return tuple(wanted)


def require_peft() -> None:
    """UserError unless peft is installed. It imports bitsandbytes where that is there, whose advice on kernels of four
    bits concerns nobody here."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    try:
        import peft  # noqa: F401
    except ImportError:
        raise UserError("LoRA needs peft, which is not installed: pip install 'slam-asr[lora]'") from None


def add_lora(llm: Any, spec: LoraSpec) -> None:
    """Puts updates beside the LLM's layers, in place, in eval mode. A is drawn in float32 from torch's generator on the
    CPU (seed it first), as for a new nn.Linear; whatever the LLM's dtype and device, the numbers are the same."""
    require_peft()
    from peft import LoraConfig, inject_adapter_in_model
    from transformers.pytorch_utils import Conv1D

    layers = {name: layer for name, layer in linear_layers(llm).items() if _ends_with(name, spec.targets)}
    options = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=spec.dropout,
        target_modules=list(layers),
        fan_in_fan_out=all(isinstance(layer, Conv1D) for layer in layers.values()),  # its weight is [in, out]
    )
    with torch.random.fork_rng(devices=[]):  # peft's own draws are cast to the LLM's dtype
        inject_adapter_in_model(options, llm)
    llm.eval()  # its new modules too
    for name, parameter in lora_parameters(llm).items():
        first = torch.zeros(parameter.shape)
        if ".lora_A." in name:
            nn.init.kaiming_uniform_(first, a=math.sqrt(5))
        parameter.data = first.to(parameter.device)


def lora_parameters(llm: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of the updates by their names in training; {} of an LLM without LoRA."""
    return {
        PREFIX + name.replace(OF_PEFT, "."): parameter
        for name, parameter in llm.named_parameters()
        if f".lora_A{OF_PEFT}" in name or f".lora_B{OF_PEFT}" in name
    }


def lora_dropouts(llm: nn.Module) -> list[Any]:
    """The modules that drop a share of the updates' inputs."""
    return [module.lora_dropout for module in llm.modules() if _is_lora(module)]


def load_lora(llm: nn.Module, weights: dict[str, Tensor]) -> None:
    """Puts the updates among trained weights into the LLM. UserError if a name or a shape differs."""
    own = lora_parameters(llm)
    require_same_shapes("LoRA", {name: weights[name] for name in weights if name.startswith(PREFIX)}, own)
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name])


def require_same_shapes(what: str, given: Mapping[str, Tensor], own: Mapping[str, Any]) -> None:
    """UserError with the first three names whose shapes differ, both shapes of each."""
    there, here = ({name: tuple(tensor.shape) for name, tensor in named.items()} for named in (given, own))
    differ = [name for name in sorted(there.keys() | here.keys()) if there.get(name) != here.get(name)]
    if differ:
        shown = [f"{name} is {there.get(name, 'not')} there, {here.get(name, 'not')} here" for name in differ]
        more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
        raise UserError(f"these {what} weights are of another shape: {'; '.join(shown[:3])}{more}")


@torch.no_grad()
def merge_lora(llm: Any) -> None:
    """Adds the updates to the weights of their layers and takes the updates away, in place. The sums are computed in
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
    """The updates among trained weights, by the names that peft gives them in files."""
    return {
        PEFT_PREFIX + name.removeprefix(PREFIX): tensor for name, tensor in weights.items() if name.startswith(PREFIX)
    }


def from_peft(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """`to_peft` backwards. UserError for names of other kinds of weights."""
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
