"""Finds the encoder and the LLM of an adapter, also after they or the adapter were moved.

Tried in this order, until a model has the fingerprint in adapter.json:

1. the folder or hub id of the recipe;
2. for a folder or a GGUF file, its path relative to adapter.json's folder;
3. for a GGUF file, the folders that GGUF files were converted to (gguf.py);
4. folders below adapter.json's folder and below each of its parents, LEVELS up and two down, nearest first;
5. the Hugging Face cache.

In 3 to 5, only folders with a matching config.json are loaded, and their own code is never run."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from model.encoder_layers import layers_in_frame
from model.errors import UserError
from model.gguf import gguf_cache, is_gguf
from model.loading import ModelNotFound

LEVELS = 5  # from runs/NAME/checkpoints/step-00000400 up to the project, and one more
MAX_FOLDERS = 5_000  # listed
MAX_LOADED = 4  # whose weights are read and compared
WIDTHS = ("hidden_size", "n_embd", "d_model", "word_embed_proj_dim")
"""Keys of config.json under which architectures give the width of their embeddings."""
SECTIONS = ("text_config", "audio_config")
"""Keys of config.json for the configurations of an LLM and an encoder that are parts of a larger model."""

REAL_PAIR = {
    "e804dea5bfa99511f4dadacaaa9ed7d11b6200b91eb777c01d85562e1e640709",  # Whisper tiny.en
    "43746b0628bb4785c5d92417e7e77fa0d4595d36fff648c63c2ed041c4e72bd8",  # SmolLM2 135M Instruct
}
"""The weights, as in fingerprints, that `slam-asr fetch real-pair` writes."""
ON_THE_HUB = "--encoder openai/whisper-tiny.en --llm HuggingFaceTB/SmolLM2-135M-Instruct --other-weights"
"""Flags of transcribe and score that take the real pair from the hub instead, where its weights are not quite these."""

Loaded = TypeVar("Loaded")


class OtherModel(UserError):
    """The model is not the one that the adapter was trained with."""


@dataclass(frozen=True)
class FrozenPart:
    """One of the two, as adapter.json describes it."""

    what: str  # "encoder" or "LLM"
    source: str  # as in the recipe
    path: str
    """Relative to `folder`; "" if the source was no folder or GGUF file, or adapter.json does not say."""
    fingerprint: dict[str, Any]
    folder: Path  # of adapter.json


def require_same(what: str, trained: dict[str, Any], given: dict[str, Any], source: str, other_weights: bool) -> None:
    """OtherModel unless the fingerprints are the same; with `other_weights` those may differ, with a line on stderr."""
    for name in sorted(trained.keys() | given.keys()):
        if trained.get(name) == given.get(name):
            continue
        if name == "weights" and other_weights:
            note = f"{what} {source!r} has other weights than the adapter was trained with; the WER may be higher"
            print(f"slam-asr: {note}", file=sys.stderr)
        else:
            differ = f"its {name} is {trained.get(name)}, that of {source!r} is {given.get(name)}"
            advice = f"give the {what} it was trained with, --{what.lower()}"
            advice += ", or accept this one with --other-weights" if name == "weights" else ""
            raise OtherModel(f"the adapter was trained with another {what}: {differ}; {advice}")


def relative_path(source: str, folder: Path) -> str:
    """The path of a local folder or GGUF file relative to `folder`; "" for other sources, or where `between` is."""
    place = os.path.expanduser(source)
    return between(folder, os.path.abspath(place)) if _is_local(place) else ""


def _is_local(place: str) -> bool:
    return os.path.isdir(place) or (is_gguf(place) and os.path.isfile(place))


def between(folder: Path, place: str) -> str:
    """The path from `folder` to the absolute `place`; "" if they have only the root in common: no use after a move."""
    start = os.path.realpath(folder)
    return "" if os.path.commonpath([place, start]) == os.sep else os.path.relpath(place, start)


def open_part(part: FrozenPart, load: Callable[[str, bool], Loaded]) -> Loaded:
    """`load(place, own_code)` of the first place that holds the model; it raises OtherModel for another model.

    `own_code`: whether code that comes with the model may run if the user allows that. UserError if no place holds it.
    """
    from huggingface_hub import constants

    refusals: list[UserError] = []
    stated = _stated(part)
    for place in stated:
        try:
            return load(place, True)
        except (ModelNotFound, OtherModel) as error:
            refusals.append(error)
    for folder in islice(_similar(part, stated), MAX_LOADED):
        try:
            loaded = load(str(folder), False)
        except UserError:
            continue
        shown = os.path.relpath(folder) if folder.is_relative_to(Path.cwd()) else folder
        note = f"slam-asr: {part.what} {part.source!r} is not there; using {shown}, which has the same weights"
        print(note, file=sys.stderr)
        return loaded
    for error in refusals:
        if isinstance(error, OtherModel):
            raise error
    if part.fingerprint.get("weights") in REAL_PAIR:
        raise ModelNotFound(
            f"the {part.what} of this adapter is not here: run `slam-asr fetch real-pair` in this folder, which writes "
            f"it to build/real_pair, or take nearly the same models from the Hugging Face hub: {ON_THE_HUB}"
        )
    beside = [os.path.normpath(part.folder / part.path)] if part.path else []
    places = [repr(place) for place in dict.fromkeys((part.source, *beside))]
    raise ModelNotFound(
        f"the {part.what} of this adapter ({part.fingerprint.get('family')}, weights "
        f"{str(part.fingerprint.get('weights'))[:12]} ...) is not at {' or '.join(places)}, in no folder near "
        f"{str(part.folder)!r} and not in {constants.HF_HUB_CACHE}; say where encoder and LLM are with --encoder and "
        f"--llm{f' ({refusals[0]})' if refusals else ''}"
    )


def _stated(part: FrozenPart) -> list[str]:
    """Places that adapter.json names. The hub is not asked for what was a folder."""
    source, beside = os.path.expanduser(part.source), part.folder / part.path
    folders = [part.source] if _is_local(source) else []
    if part.path and _is_local(str(beside)) and not (folders and beside.samefile(source)):
        folders.append(str(beside))
    likely = [folder for folder in folders if _fits(part, Path(folder).expanduser())]
    return likely or folders or ([] if part.path else [part.source])


def _similar(part: FrozenPart, stated: list[str]) -> Iterator[Path]:
    """Other folders with a matching configuration, each once: for a GGUF file the converted ones, then those nearby and
    in the hub's cache."""
    from huggingface_hub import constants

    converted = sorted(gguf_cache().glob("[0-9a-f]*[0-9a-f]")) if is_gguf(part.source) else []
    cached = iter(sorted(Path(constants.HF_HUB_CACHE).glob("models--*/snapshots/*")))
    seen = {os.path.realpath(os.path.expanduser(place)) for place in stated}
    for folder in (*converted, *islice(_nearby(part.folder), MAX_FOLDERS), *islice(cached, MAX_FOLDERS)):
        if _fits(part, folder) and os.path.realpath(folder) not in seen:
            seen.add(os.path.realpath(folder))
            yield folder


def _nearby(folder: Path) -> Iterator[Path]:
    """Folders with a config.json below it and below its parents, but not of the whole file system or of all homes."""
    place = Path(os.path.realpath(folder))
    for parent in (place, *place.parents[:LEVELS]):
        if parent == parent.parent:
            return
        for pattern in ("*/config.json", "*/*/config.json"):  # encoder, models/encoder
            for file in sorted(islice(parent.glob(pattern), MAX_FOLDERS)):
                if not any(name.startswith(".") for name in file.relative_to(parent).parts):
                    yield file.parent
        if parent == Path.home():
            return


def _fits(part: FrozenPart, folder: Path) -> bool:
    """Whether it holds weights, and a config.json of the fingerprint's family, width and depth."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        weights = any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))
    except (OSError, ValueError):
        return False
    if not isinstance(config, dict) or not weights:
        return False
    sections = [section for section in (config, *map(config.get, SECTIONS)) if isinstance(section, dict)]
    widths = {section[name] for section in sections for name in WIDTHS if isinstance(section.get(name), int)}
    family, dim, layer = (part.fingerprint.get(name) for name in ("family", "dim", "layer"))
    if isinstance(dim, int) and layer is not None:
        dim //= layers_in_frame(layer)
    layers = config.get("num_hidden_layers")
    too_few = isinstance(layer, int) and isinstance(layers, int) and layers < layer
    return family in [section.get("model_type") for section in sections] and dim in (widths or {dim}) and not too_few
