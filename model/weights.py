"""The adapter's own files: `adapter.safetensors` (float32 weights) and `adapter.json` (all that decoding must know).

An export and a training checkpoint both hold the two, so whatever reads one reads the other. Nothing is unpickled.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from model.adapter import AdapterSpec, ConcatAdapter, build_adapter
from model.encoders import Encoder, load_encoder
from model.errors import UserError
from model.frozen_parts import FrozenPart, OtherModel, between, open_part, relative_path
from model.llm import Llm, load_llm
from model.loading.pretrained import choose_dtype
from model.prompt import Prompt
from model.slam_asr import SlamAsr

WEIGHTS, CARD = "adapter.safetensors", "adapter.json"
FORMAT = "slam-asr-adapter"
VERSION = 1


@dataclass(frozen=True)
class AdapterCard:
    """adapter.json: the adapter's shape, and which encoder, LLM and prompt it was trained with."""

    spec: AdapterSpec
    encoder: dict[str, Any]
    """Encoder.fingerprint() of the training run."""
    encoder_source: str
    """Hugging Face id or folder that the encoder came from."""
    llm: dict[str, Any]
    """Llm.fingerprint of the training run."""
    llm_source: str
    prompt: str
    """The template, with its <speech> mark."""
    step: int = 0
    """Optimizer steps it was trained for."""
    weights_sha256: str = ""
    """Of adapter.safetensors; filled when written."""
    encoder_path: str = ""
    """Of an encoder that came from a folder: that folder, relative to adapter.json's; filled when written."""
    llm_path: str = ""


def save_adapter(folder: Path, weights: dict[str, Tensor], card: AdapterCard) -> None:
    """Writes both files into an existing folder and fsyncs them; publishing the folder by rename, beside where it is,
    is the caller's."""
    data = save({name: tensor.detach().float().cpu().contiguous() for name, tensor in weights.items()})
    write_synced(folder / WEIGHTS, data)
    paths = {name: relative_path(source, folder) for name, source in _sources(card).items()}
    write_card(folder, replace(card, weights_sha256=hashlib.sha256(data).hexdigest(), **paths))


def write_card(folder: Path, card: AdapterCard) -> None:
    """Writes and fsyncs adapter.json; a path that is empty is left out, as in files of older versions."""
    stated = asdict(card) | {"format": FORMAT, "version": VERSION}
    stated = {name: value for name, value in stated.items() if value or name not in _sources(card)}
    write_synced(folder / CARD, (json.dumps(stated, indent=1, sort_keys=True) + "\n").encode())


def moved_card(card: AdapterCard, folder: Path, out: Path) -> AdapterCard:
    """The card of an adapter in `folder`, for a copy in `out`: paths to encoder and LLM lead to where they led."""

    def moved(path: str, source: str) -> str:
        place = os.path.normpath(os.path.join(os.path.realpath(folder), path))
        return between(out, place) if path else relative_path(source, out)

    sources = _sources(card)
    return replace(card, **{name: moved(getattr(card, name), sources[name]) for name in sources})


def _sources(card: AdapterCard) -> dict[str, str]:
    """{name of the field with the relative path: what the recipe gave}."""
    return {"encoder_path": card.encoder_source, "llm_path": card.llm_source}


def write_synced(path: Path, data: bytes) -> None:
    """Writes and fsyncs one file."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def read_card(folder: Path) -> AdapterCard:
    """adapter.json, strictly: UserError for anything missing, foreign or of another version."""
    path = folder / CARD
    try:
        stated = json.loads(path.read_text("utf-8"))
        if (stated.pop("format"), stated.pop("version")) != (FORMAT, VERSION):
            raise UserError(
                f"{path} is not a {FORMAT} file of version {VERSION}; export the adapter again with this version"
            )
        return _typed(AdapterCard(spec=_typed(AdapterSpec(**stated.pop("spec"))), **stated))
    except FileNotFoundError:
        raise UserError(f"no {CARD} in {str(folder)!r}; give a run, checkpoint or export folder") from None
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a readable adapter description ({error}); export the adapter again") from None


def _typed(made: Any) -> Any:
    """The dataclass instance; TypeError if a field is not of its type."""
    for field in fields(made):
        value, wanted = getattr(made, field.name), {float: (int, float), dict[str, Any]: dict}
        if not isinstance(value, wanted.get(field.type, field.type)):  # pyright: ignore
            raise TypeError(f"{field.name} is {value!r}")
        if field.name.endswith("_path") and os.path.isabs(value):
            raise TypeError(f"{field.name} is {value!r}, not relative")
    return made


def read_adapter(folder: Path) -> tuple[AdapterCard, dict[str, Tensor]]:
    """The card and the float32 weights, checked against the card's sha256 and shapes."""
    card = read_card(folder)
    try:
        data = (folder / WEIGHTS).read_bytes()
    except FileNotFoundError:
        raise UserError(f"no {WEIGHTS} in {str(folder)!r}; the folder is incomplete") from None
    if hashlib.sha256(data).hexdigest() != card.weights_sha256:
        raise UserError(
            f"{folder / WEIGHTS} does not match the sha256 in {CARD}; it is damaged, use another checkpoint"
        )
    try:
        return card, load(data)
    except SafetensorError as error:
        raise UserError(f"{folder / WEIGHTS} is not a safetensors file ({error})") from None


def describe(path: Path) -> str | None:
    """What a folder of ours holds, in words: an adapter, shards or a model; None for any other, or none."""
    if (path / CARD).is_file() or (path / "checkpoints").is_dir():
        return "an adapter"
    if (path / "index.json").is_file() or any(path.glob("shard-*.tar")):
        return "shards"
    return "a pretrained model" if (path / "config.json").is_file() else None


def find_adapter(path: str | Path) -> Path:
    """The folder that holds the adapter: `path` itself, or of a run its best checkpoint, else its newest.

    UserError for any other path; it says what that holds.
    """
    path = Path(path)
    if (path / CARD).is_file():
        return path
    checkpoints = path / "checkpoints"
    best = checkpoints / "best"
    if best.is_symlink() and "/" not in os.readlink(best) and (checkpoints / os.readlink(best) / CARD).is_file():
        return checkpoints / os.readlink(best)
    steps = sorted(checkpoints.glob("step-*")) if checkpoints.is_dir() else []
    if not steps:
        kind = describe(path)
        if not path.exists():
            reason = "there is no such folder"
        elif not path.is_dir():
            reason = "it is a file"
        elif kind == "an adapter":
            reason = "the run has no checkpoint yet"
        else:
            reason = f"it holds {kind}" if kind else "it holds no adapter.json and no checkpoints"
        raise UserError(f"no adapter in {str(path)!r}: {reason}; give a run, checkpoint or export folder")
    return steps[-1]


def load_for_decoding(
    path: str | Path,
    encoder: str | None = None,
    llm: str | None = None,
    dtype: str = "auto",
    device: Any = "cpu",
    with_encoder: bool = True,
    trust_remote_code: bool = False,
) -> SlamAsr:
    """The recogniser that an adapter belongs to, ready to decode.

    `encoder` and `llm` say where the frozen parts lie on this machine; else they are looked for as frozen_parts.py has
    it. UserError if they are not the parts that the adapter was trained with, or not there.
    """
    folder = find_adapter(path)
    card, weights = read_adapter(folder)
    choose_dtype(dtype, device)  # a wrong name is no reason to look for models

    def open_encoder(place: str, own_code: bool) -> Encoder:
        loaded = load_encoder(place, card.encoder["layer"], dtype, device, trust_remote_code and own_code)
        require_encoder(card, loaded.fingerprint(), place)
        return loaded

    def open_llm(place: str, own_code: bool) -> Llm:
        loaded = load_llm(place, dtype, device, trust_remote_code and own_code)
        require_llm(card, loaded, place)
        return loaded

    speech = None
    if with_encoder:
        part = FrozenPart("encoder", card.encoder_source, card.encoder_path, card.encoder, folder)
        speech = open_encoder(encoder, True) if encoder else open_part(part, open_encoder)
    part = FrozenPart("LLM", card.llm_source, card.llm_path, card.llm, folder)
    words = open_llm(llm, True) if llm else open_part(part, open_llm)
    return assemble(speech, load_weights(build_adapter(card.spec), weights), words, card.prompt).to(device).eval()


def assemble(encoder: Encoder | None, adapter: ConcatAdapter, llm: Llm, template: str) -> SlamAsr:
    """The recogniser from its parts."""
    return SlamAsr(encoder, adapter, llm, Prompt(llm.tokenizer, template))


def load_weights(adapter: ConcatAdapter, weights: dict[str, Tensor]) -> ConcatAdapter:
    """The adapter with these weights; UserError if a name or a shape differs."""
    own = {name: tuple(tensor.shape) for name, tensor in adapter.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if own != given:
        raise UserError(
            f"these adapter weights are of another shape: the recipe's adapter has {own}, the file has {given}"
        )
    adapter.load_state_dict(weights)
    return adapter


def require_encoder(card: AdapterCard, found: dict[str, Any], source: str) -> None:
    """UserError unless `found` is the encoder that the adapter was trained with, in whatever precision."""
    _require("encoder", {**card.encoder, "dtype": None}, {**found, "dtype": None}, source)


def require_llm(card: AdapterCard, found: Llm, source: str) -> None:
    """UserError unless `found` is the LLM that the adapter was trained with."""
    _require("LLM", card.llm, found.fingerprint, source)


def _require(what: str, trained: dict[str, Any], found: dict[str, Any], source: str) -> None:
    for name in sorted(trained.keys() | found.keys()):
        if trained.get(name) != found.get(name):
            raise OtherModel(
                f"the adapter was trained with another {what}: its {name} is {trained.get(name)}, "
                f"that of {source!r} is {found.get(name)}; give the {what} it was trained with, --{what.lower()}"
            )
