"""The adapter's files: `adapter.safetensors` (its weights), `adapter.json` (all that decoding needs to know) and, where
the LLM was trained with LoRA, `lora.safetensors` (in peft's names).

Exports and training checkpoints both hold them: float32, or float16 in an export that was asked for it. Nothing is
unpickled."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from model.adapters import Adapter, AdapterSpec, build_adapter
from model.encoders import Encoder, load_encoder, samples_per_frame
from model.errors import UserError
from model.frozen_parts import FrozenPart, OtherModel, between, open_part, relative_path, require_same
from model.llm import Llm, computing_dtype, load_llm
from model.loading import choose_dtype
from model.lora import PREFIX, LoraSpec, add_lora, from_peft, load_lora, require_same_shapes, to_peft
from model.prompt import Prompt
from model.slam_asr import SlamAsr

WEIGHTS, CARD, LORA = "adapter.safetensors", "adapter.json", "lora.safetensors"
FORMAT, VERSION = "slam-asr-adapter", 1


@dataclass(frozen=True)
class AdapterCard:
    """adapter.json: the adapter's shape, and which encoder, LLM and prompt it was trained with."""

    spec: AdapterSpec
    encoder: dict[str, Any]  # Encoder.fingerprint() of the training run
    encoder_source: str  # Hugging Face id or folder that the encoder was loaded from
    llm: dict[str, Any]  # Llm.fingerprint of the training run
    llm_source: str
    prompt: str  # the template, with its <speech> mark
    step: int = 0  # optimizer steps it was trained for
    utterance_seconds: float = 0.0  # that 95 % of the training utterances do not exceed; 0 = not known
    weights_sha256: str = ""  # of adapter.safetensors; filled when written
    encoder_path: str = ""  # the encoder's folder, if it is one, relative to adapter.json's; filled when written
    llm_path: str = ""
    lora: LoraSpec | None = None  # None if trained without LoRA
    lora_sha256: str = ""  # of lora.safetensors; filled when written
    recipe_sha256: str = ""  # of what the weights depend on in the recipe (config_digest); filled by an export of a run
    data_sha256: str = ""  # digest of the training data's index; the same

    @property
    def digest(self) -> str:
        """Identifies the trained weights: the sha256 of adapter.safetensors and, with LoRA, of lora.safetensors."""
        return "+".join(filter(None, (self.weights_sha256, self.lora_sha256)))

    @property
    def sources(self) -> dict[str, str]:
        """{field of the relative path: source as in the recipe}."""
        return {"encoder_path": self.encoder_source, "llm_path": self.llm_source}


def save_adapter(folder: Path, weights: Mapping[str, Tensor], card: AdapterCard) -> None:
    """Writes and fsyncs the files into an existing folder, which the caller publishes by renaming it beside itself.
    `weights` are those of SlamAsr.trained."""
    stated = {name: relative_path(source, folder) for name, source in card.sources.items()}
    files, digests = weight_files(weights, card)
    for name, data in files.items():
        write_synced(folder / name, data)
    write_card(folder, replace(card, **stated, **digests))


def weight_files(
    weights: Mapping[str, Tensor], card: AdapterCard, dtype: torch.dtype = torch.float32
) -> tuple[dict[str, bytes], dict[str, str]]:
    """{file name: bytes} of the weights of SlamAsr.trained, and the fields of the card with their sha256. UserError if
    a weight is not finite in `dtype`."""
    parts = {WEIGHTS: of_adapter(weights)} | ({LORA: to_peft(weights)} if card.lora else {})
    files = {name: _as_bytes(part, dtype) for name, part in parts.items()}
    fields = {WEIGHTS: "weights_sha256", LORA: "lora_sha256"}
    return files, {fields[name]: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def _as_bytes(weights: dict[str, Tensor], dtype: torch.dtype) -> bytes:
    cast = {name: tensor.detach().float().cpu().to(dtype).contiguous() for name, tensor in weights.items()}
    if dtype != torch.float32:
        for name, tensor in cast.items():
            if not tensor.isfinite().all():
                largest = f"{name} has weights up to {weights[name].abs().max():.3g}"
                raise UserError(f"{largest}, beyond {str(dtype).removeprefix('torch.')}; export it in float32")
    return save(cast)


def of_adapter(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Trained weights without those of LoRA."""
    return {name: tensor for name, tensor in weights.items() if not name.startswith(PREFIX)}


def write_card(folder: Path, card: AdapterCard) -> None:
    """Writes and fsyncs adapter.json; empty paths, and the fields of LoRA if there is none, are left out, as in files
    of older versions."""
    optional = {*card.sources, "lora", "lora_sha256", "recipe_sha256", "data_sha256", "utterance_seconds"}
    content = {name: value for name, value in asdict(card).items() if value or name not in optional}
    content |= {"format": FORMAT, "version": VERSION}
    write_synced(folder / CARD, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


def moved_card(card: AdapterCard, folder: Path, out: Path) -> AdapterCard:
    """The card of an adapter in `folder` for a copy in `out`: its paths lead to the same encoder and LLM."""
    paths = {}
    for name, source in card.sources.items():
        path = getattr(card, name)
        place = os.path.normpath(os.path.join(os.path.realpath(folder), path))
        paths[name] = between(out, place) if path else relative_path(source, out)
    return replace(card, **paths)


def write_synced(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def read_card(folder: Path) -> AdapterCard:
    """adapter.json, strictly: UserError for missing, unknown or mistyped fields and other versions."""
    path = folder / CARD
    try:
        content = json.loads(path.read_text("utf-8"))
        if (content.pop("format"), content.pop("version")) != (FORMAT, VERSION):
            other = f"is not a {FORMAT} file of version {VERSION}"
            raise UserError(f"{path} {other}; export the adapter again with this version")
        if lora := content.pop("lora", None):
            content["lora"] = _typed(LoraSpec(**lora | {"targets": tuple(lora["targets"])}))
        return _typed(AdapterCard(spec=_typed(AdapterSpec(**content.pop("spec"))), **content))
    except FileNotFoundError:
        raise UserError(f"no {CARD} in {str(folder)!r}; give a run, checkpoint or export folder") from None
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a readable adapter description ({error}); export the adapter again") from None


def _typed(made: Any) -> Any:
    """The dataclass instance; TypeError if a field is not of its type."""
    types = {float: (int, float), dict[str, Any]: dict, tuple[str, ...]: tuple}
    for field in fields(made):
        value = getattr(made, field.name)
        if not isinstance(value, types.get(field.type, field.type)):  # pyright: ignore
            raise TypeError(f"{field.name} is {value!r}")
        if field.name.endswith("_path") and os.path.isabs(value):
            raise TypeError(f"{field.name} is {value!r}, not relative")
    return made


def read_adapter(folder: Path) -> tuple[AdapterCard, dict[str, Tensor]]:
    """The card and the weights of SlamAsr.trained, as float32 whatever the files hold; UserError if missing, damaged or
    not safetensors."""
    card = read_card(folder)
    weights = _read_tensors(folder / WEIGHTS, card.weights_sha256)
    return card, weights | (from_peft(_read_tensors(folder / LORA, card.lora_sha256)) if card.lora else {})


def _read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise UserError(f"{path} does not match the sha256 in {CARD}; it is damaged, use another checkpoint")
        return {name: tensor.float() for name, tensor in load(data).items()}
    except FileNotFoundError:
        raise UserError(f"no {path.name} in {str(path.parent)!r}; the folder is incomplete") from None
    except SafetensorError as error:
        raise UserError(f"{path} is not a safetensors file ({error})") from None


def describe(path: Path) -> str | None:
    """What a folder holds, in words: an adapter, shards or a model; None for any other, or none."""
    if (path / CARD).is_file() or (path / "checkpoints").is_dir():
        return "an adapter"
    if (path / "index.json").is_file() or any(path.glob("shard-*.tar")):
        return "shards"
    return "a pretrained model" if (path / "config.json").is_file() else None


def find_adapter(path: str | Path) -> Path:
    """The folder that holds the adapter: `path` itself, or a run's best checkpoint, else its newest. UserError if there
    is none."""
    path = Path(path)
    if (path / CARD).is_file():
        return path
    checkpoints = path / "checkpoints"
    best = checkpoints / "best"
    if best.is_symlink() and "/" not in os.readlink(best) and (checkpoints / os.readlink(best) / CARD).is_file():
        return checkpoints / os.readlink(best)
    if steps := sorted(checkpoints.glob("step-*")):
        return steps[-1]
    kind = describe(path)
    if not path.is_dir():
        reason = "it is a file" if path.exists() else "there is no such folder"
    else:
        empty = kind == "an adapter"
        reason = "the run has no checkpoint yet" if empty else f"it holds {kind or 'no adapter.json, no checkpoints'}"
    raise UserError(f"no adapter in {str(path)!r}: {reason}; give a run, checkpoint or export folder")


def load_for_decoding(
    path: str | Path,
    encoder: str | None = None,
    llm: str | None = None,
    dtype: str = "auto",
    device: Any = "cpu",
    with_encoder: bool = True,
    trust_remote_code: bool = False,
    encoder_dtype: str | None = None,
    llm_dtype: str | None = None,
    other_weights: bool = False,
    llm_loader: Callable[..., Llm] = load_llm,
) -> SlamAsr:
    """The recogniser of an adapter, ready to decode; `encoder` and `llm` are the places of the frozen parts, which are
    searched if None (frozen_parts.py). `encoder_dtype` and `llm_dtype` are `dtype` if None. UserError if the parts are
    not those that the adapter was trained with, or are not found; `other_weights` allows `encoder` and `llm` to have
    other weights, of the same architecture, with a line on stderr. `llm_loader` is load_llm, or load_embeddings, whose
    LLM is not compared by its weights, and so must be where adapter.json says, or `llm`."""
    if other_weights and not (encoder or llm):
        raise UserError("--other-weights is about a model that --encoder or --llm names; give one, or leave it out")
    folder = find_adapter(path)
    card, weights = read_adapter(folder)
    encoder_dtype, llm_dtype = encoder_dtype or dtype, llm_dtype or dtype
    for check, requested in ((choose_dtype, encoder_dtype), (computing_dtype, llm_dtype)):
        check(requested, device)  # refused before models are searched

    def open_encoder(place: str, own_code: bool) -> Encoder:
        own_code, window = trust_remote_code and own_code, card.encoder.get("window")
        loaded = load_encoder(place, card.encoder["layer"], encoder_dtype, device, own_code, window)
        require_encoder(card, loaded.fingerprint(), place, other_weights and place == encoder)
        return loaded

    frozen_encoder = None
    if with_encoder:
        part = FrozenPart("encoder", card.encoder_source, card.encoder_path, card.encoder, folder)
        frozen_encoder = open_encoder(encoder, True) if encoder else open_part(part, open_encoder)
    frozen_llm = open_llm(card, folder, llm, llm_dtype, device, trust_remote_code, other_weights, llm_loader)
    if card.lora is not None:
        add_lora(frozen_llm.model, card.lora)
    model = SlamAsr(frozen_encoder, build_adapter(card.spec), frozen_llm, Prompt(frozen_llm.tokenizer, card.prompt))
    model.samples_per_frame, model.utterance_seconds = samples_per_frame(card.encoder), card.utterance_seconds
    load_trained(model, weights)
    return model.to(device).eval()


def open_llm(
    card: AdapterCard,
    folder: Path,
    given: str | None,
    dtype: str,
    device: Any,
    trust_remote_code: bool,
    other_weights: bool = False,
    loader: Callable[..., Llm] = load_llm,
) -> Llm:
    """The LLM of the adapter in `folder`, `given` or searched for. UserError as `load_for_decoding`."""

    def load_it(place: str, own_code: bool) -> Llm:
        if loader is not load_llm and not own_code:
            raise OtherModel(f"only the weights would tell whether {place!r} is the adapter's LLM")
        loaded = loader(place, dtype, device, trust_remote_code and own_code)
        require_same("LLM", card.llm, card.llm | loaded.fingerprint, place, other_weights and place == given)
        return loaded

    part = FrozenPart("LLM", card.llm_source, card.llm_path, card.llm, folder)
    return load_it(given, True) if given else open_part(part, load_it)


def load_trained(model: SlamAsr, weights: dict[str, Tensor]) -> None:
    """Loads weights of SlamAsr.trained into the recogniser; UserError if a name or a shape differs."""
    load_weights(model.adapter, of_adapter(weights))
    load_lora(model.llm, weights)


def load_weights(adapter: Adapter, weights: dict[str, Tensor]) -> Adapter:
    """The adapter with these weights; UserError if a name or a shape differs."""
    require_same_shapes("adapter", weights, adapter.state_dict())
    adapter.load_state_dict(weights)
    return adapter


def require_encoder(card: AdapterCard, fingerprint: dict[str, Any], source: str, other_weights: bool = False) -> None:
    """UserError unless the fingerprint is of the encoder that the adapter was trained with, in whatever precision; with
    `other_weights`, of one of its architecture."""
    require_same("encoder", {**card.encoder, "dtype": None}, {**fingerprint, "dtype": None}, source, other_weights)
