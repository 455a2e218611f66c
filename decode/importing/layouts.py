"""The names and shapes that other toolkits save their weights under, and ours of the same weights.

- SLAM-LLM (github.com/X-LANCE/SLAM-LLM): `model.pt` of its checkpoint handler, the trained weights of slam_model:
  `encoder_projector.*` of src/slam_llm/models/projector.py, and with use_peft `llm.base_model.model.*` of peft.
- slam_asr_pytorch (github.com/jiamingkong/slam_asr_pytorch): `adapter_weights.pt`, the names with "adapter" in its
  checkpoint: `speech_encoder.adapter.*`, a Linear, a ReLU and a Linear in a Sequential.

D encoder width, k frames stacked, H LLM width."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from model.errors import UserError, hint
from model.lora import PREFIX

SLAM_LLM, SLAM_ASR_PYTORCH = "SLAM-LLM", "slam_asr_pytorch"
LORA = re.compile(r"llm\.base_model\.model\.(.+\.lora_[AB])\.default\.weight")
WRAPPED = "module."  # before every name that DistributedDataParallel saved
TRAINED_TOO = {  # start of a name: what it belongs to
    "llm.": "the LLM",
    "language_model.": "the LLM",
    "encoder.": "the encoder",
    "speech_encoder.model.": "the encoder",
}


@dataclass(frozen=True)
class Layout:
    """A projector's names in files of a toolkit."""

    toolkit: str
    type: str  # of the adapter here
    start: str
    names: Mapping[str, str]  # theirs, without `start`: ours
    own_names: str  # as its toolkit calls it


@dataclass(frozen=True)
class Imported:
    """A file's weights under our names."""

    toolkit: str
    type: str
    stack: int  # k
    hidden: int
    adapter: dict[str, Tensor]
    lora: dict[str, Tensor]  # empty if it was trained without LoRA


def _both(names: Mapping[str, str]) -> dict[str, str]:
    """Weight and bias of each layer."""
    kinds = ("weight", "bias")
    return {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in names.items() for kind in kinds}


LINEAR = _both({"linear1": "linear1", "linear2": "linear2"})
LAYOUTS = (
    Layout(SLAM_LLM, "conv1d", "encoder_projector.", {**_both({"conv1d": "conv"}), **LINEAR}, "cov1d-linear"),
    Layout(SLAM_LLM, "concat", "encoder_projector.", LINEAR, "linear"),
    Layout(SLAM_ASR_PYTORCH, "concat", "speech_encoder.adapter.", _both({"0": "linear1", "2": "linear2"}), "adapter"),
)


def recognised(weights: Mapping[str, Tensor], where: str, encoder_dim: int, llm_dim: int) -> Imported:
    """The weights of a file under our names, checked against the encoder's and the LLM's width. UserError, naming
    `where`, for a projector that is not here, for names that are missing or unknown, and for shapes that do not fit."""
    if weights and all(name.startswith(WRAPPED) for name in weights):
        weights = {name.removeprefix(WRAPPED): tensor for name, tensor in weights.items()}
    if "encoder_projector.query" in weights:
        raise UserError(
            f"{where} holds SLAM-LLM's q-former, whose queries attend to the whole utterance; the qformer here attends "
            "to windows, so it cannot be imported; linear and cov1d-linear can"
        )
    layout = next((one for one in LAYOUTS if f"{one.start}{next(iter(one.names))}" in weights), None)
    if layout is None:
        held = ", ".join(sorted(weights)[:3])
        raise UserError(
            f"{where} holds no projector of SLAM-LLM (encoder_projector.linear1.weight) and no adapter of "
            f"slam_asr_pytorch (speech_encoder.adapter.0.weight); it holds {held} ..."
        )
    lora = _lora(weights) if layout.toolkit == SLAM_LLM else {}
    known = [f"{layout.start}{name}" for name in layout.names]
    for name in weights:
        if name not in known and not (lora and LORA.fullmatch(name)):
            raise UserError(_unknown(where, name, known))
    if missing := [name for name in known if name not in weights]:
        raise UserError(f"{where} lacks {missing[0]}, which a projector {layout.own_names} has; give a whole file")
    adapter = {ours: weights[f"{layout.start}{theirs}"] for theirs, ours in layout.names.items()}
    try:
        stack, hidden = STACKS[layout.type](adapter, encoder_dim, llm_dim)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    return Imported(layout.toolkit, layout.type, stack, hidden, adapter, lora)


def _lora(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = ((LORA.fullmatch(name), tensor) for name, tensor in weights.items())
    return {f"{PREFIX}{match[1]}.weight": tensor for match, tensor in found if match}


def _unknown(where: str, name: str, known: list[str]) -> str:
    if of := next((of for start, of in TRAINED_TOO.items() if name.startswith(start)), None):
        return (
            f"{where} holds {name[:120]!r}, a weight of {of}, which was trained too; only a projector and LoRA can be "
            f"imported: {of} must be that of --encoder or --llm, unchanged"
        )
    return f"{where} holds {name[:120]!r}, which is not known{hint(name, known)}; known: {', '.join(known)}"


def _of_concat(adapter: dict[str, Tensor], encoder_dim: int, llm_dim: int) -> tuple[int, int]:
    first = adapter["linear1.weight"]
    _require_matrix("linear1", first)
    stack, rest = divmod(first.shape[1], encoder_dim)
    if rest or not stack:
        raise ValueError(
            f"its first layer takes {first.shape[1]} values, no multiple of the encoder's width {encoder_dim}; give "
            "the encoder that it was trained with as --encoder"
        )
    return stack, _hidden(adapter, first.shape[1], llm_dim)


def _of_conv1d(adapter: dict[str, Tensor], encoder_dim: int, llm_dim: int) -> tuple[int, int]:
    """Ours is a linear layer over a stack: `conv.weight[:, i * D + j]` is nn.Conv1d's `weight[:, j, i]`."""
    kernel = adapter["conv.weight"]
    if kernel.dim() != 3 or kernel.shape[:2] != (encoder_dim, encoder_dim) or not kernel.shape[2]:
        raise ValueError(
            f"its convolution is {list(kernel.shape)}, the encoder's width {encoder_dim} needs [{encoder_dim}, "
            f"{encoder_dim}, k]; give the encoder that it was trained with as --encoder"
        )
    adapter["conv.weight"] = kernel.transpose(1, 2).flatten(1)
    return kernel.shape[2], _hidden(adapter, encoder_dim, llm_dim)


STACKS: dict[str, Callable[[dict[str, Tensor], int, int], tuple[int, int]]] = {
    "concat": _of_concat,
    "conv1d": _of_conv1d,
}


def _hidden(adapter: dict[str, Tensor], taken: int, llm_dim: int) -> int:
    """The hidden width of the two linear layers, the first of which takes `taken` values. Checks the second one's
    output; all other shapes are checked when the weights are loaded."""
    _require_matrix("first linear layer", adapter["linear1.weight"])
    _require_matrix("last linear layer", adapter["linear2.weight"])
    hidden, given = adapter["linear2.weight"].shape[1], adapter["linear2.weight"].shape[0]
    if given != llm_dim:
        raise ValueError(
            f"its embeddings have {given} values, the LLM's {llm_dim}; give the LLM that it was trained with as --llm"
        )
    return hidden


def _require_matrix(what: str, weight: Tensor) -> None:
    if weight.dim() != 2 or not weight.numel():
        raise ValueError(f"its {what} has the shape {list(weight.shape)}, not that of a matrix; give a whole file")
