"""Imports an adapter, and LoRA, that another toolkit trained, as an export folder."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from decode.export.adapter import write
from decode.importing.layouts import SLAM_ASR_PYTORCH, SLAM_LLM, Imported, recognised
from decode.importing.torch_file import read_tensors
from model.adapters import AdapterSpec, build_adapter
from model.encoders import load_encoder
from model.errors import UserError
from model.files import file_sha256
from model.llm import Llm, load_llm
from model.lora import LoraSpec, add_lora, load_lora
from model.prompt import Prompt
from model.weights import AdapterCard, load_weights

PROMPTS = {  # of their training; {bos} is the LLM's token of that kind, if its tokenizer begins texts with it
    SLAM_LLM: "<speech>{bos}USER: Transcribe speech to text. Output the transcription directly without redundant "
    "content. Ensure that the output is not duplicated. \n ASSISTANT:",
    SLAM_ASR_PYTORCH: "<|im_start|>user\n<speech>, transcribe the audio<|im_end|>\n<|im_start|>assistant\n",
}
LORA_ALPHA = 32.0  # SLAM-LLM's default; its files do not say


@dataclass(frozen=True)
class Models:
    """What the file does not say: the models it was trained with."""

    encoder: str  # Hugging Face id or folder
    llm: str
    layer: str | None = None  # of the encoder (model/encoder_layers.py); None = the last
    trust_remote_code: bool = False


def import_adapter(
    file: str | Path, out: str | Path, models: Models, prompt: str | None = None, lora_alpha: float = LORA_ALPHA
) -> tuple[AdapterCard, str]:
    """Writes the projector, and LoRA, of a file of SLAM-LLM or slam_asr_pytorch (layouts.py) into the new folder `out`,
    as an export for these models. `prompt` is the template; None = that of the toolkit's training.

    Returns the card and the toolkit's name. UserError for a file that holds anything else, weights that are not finite
    or do not fit the models, and as `load_encoder` and `load_llm`."""
    file, out = Path(file), Path(out)
    weights = read_tensors(file)
    encoder = load_encoder(models.encoder, models.layer, trust_remote_code=models.trust_remote_code)
    llm = load_llm(models.llm, trust_remote_code=models.trust_remote_code)
    found = recognised(weights, str(file), encoder.dim, llm.fingerprint["dim"])
    tensors = {name: _whole(name, tensor, file) for name, tensor in (found.adapter | found.lora).items()}
    spec = AdapterSpec(found.type, found.stack, found.hidden, 0.0, encoder.dim, llm.fingerprint["dim"])
    load_weights(build_adapter(spec), {name: tensors[name] for name in found.adapter})
    lora = _lora_spec(found, lora_alpha)
    if lora is not None:
        add_lora(llm.model, lora)
        load_lora(llm.model, tensors)
    template = Prompt(llm.tokenizer, _template(found.toolkit, llm) if prompt is None else prompt).template
    card = AdapterCard(spec, encoder.fingerprint(), models.encoder, llm.fingerprint, models.llm, template, lora=lora)
    origin = {"imported": {"toolkit": found.toolkit, "sha256": file_sha256(file)}}
    return write(Path(), out, card, tensors, origin=origin), found.toolkit


def _whole(name: str, tensor: Tensor, file: Path) -> Tensor:
    """The tensor in float32. UserError if it is not finite."""
    tensor = tensor.float().contiguous()
    if not tensor.isfinite().all():
        raise UserError(f"{file}: {name} has values that are not finite; the training failed, give another checkpoint")
    return tensor


def _lora_spec(found: Imported, alpha: float) -> LoraSpec | None:
    """Rank and layers from the names and shapes; UserError if the ranks differ."""
    if not found.lora:
        return None
    ranks = Counter(tensor.shape[0] for name, tensor in found.lora.items() if name.endswith(".lora_A.weight"))
    if len(ranks) != 1 or alpha <= 0:
        differ = f"LoRA with ranks {sorted(ranks)}" if len(ranks) != 1 else f"LoRA with alpha {alpha:g}"
        raise UserError(f"{differ} cannot be imported; it needs one rank and an alpha above 0")
    targets = sorted({name.split(".")[-3] for name in found.lora})
    return LoraSpec(ranks.popitem()[0], float(alpha), tuple(targets), 0.0)


def _template(toolkit: str, llm: Llm) -> str:
    first = llm.tokenizer.encode("a")[:1]
    bos = llm.tokenizer.bos_token if first == [llm.tokenizer.bos_token_id] else ""
    return PROMPTS[toolkit].format(bos=bos)
