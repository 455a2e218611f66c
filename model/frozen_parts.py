"""Where the encoder and the LLM of an adapter lie, also after the adapter or they were moved.

In this order, until one has the fingerprint that adapter.json states:

1. the folder or hub id as the recipe gave it;
2. for a folder, its path relative to the folder of adapter.json;
3. folders below that of adapter.json, and below each of its parents, LEVELS up and DEPTH down, nearest first;
4. the Hugging Face cache.

Of 3 and 4 only folders are loaded whose config.json can be that of the model, and never their own code.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from model.errors import UserError
from model.loading.hub import ModelNotFound

LEVELS = 5  # from runs/NAME/checkpoints/step-00000400 up to the project, and one more
DEPTH = 2  # models/encoder
MOST_FOLDERS = 5_000  # looked at; a listing of each
MOST_LOADED = 4  # whose weights are read, to be compared
WIDTHS = ("hidden_size", "n_embd", "d_model", "word_embed_proj_dim")
"""Keys of config.json under which architectures state the width of their embeddings."""

Loaded = TypeVar("Loaded")


class OtherModel(UserError):
    """The model is not the one that the adapter was trained with."""


@dataclass(frozen=True)
class FrozenPart:
    """What adapter.json says of one of the two."""

    what: str
    """ "encoder" or "LLM"."""
    source: str
    """As the recipe gave it."""
    path: str
    """Relative to `folder`; "" if the source was no folder, or adapter.json does not say."""
    fingerprint: dict[str, Any]
    folder: Path
    """Where adapter.json lies."""


def relative_path(source: str, folder: Path) -> str:
    """A local folder's path relative to `folder`; "" for what is no folder, and as `between` says."""
    place = os.path.expanduser(source)
    return between(folder, os.path.abspath(place)) if os.path.isdir(place) else ""


def between(folder: Path, place: str) -> str:
    """The path from `folder` to the absolute `place`; "" if they have nothing but the root in common.

    That would be an absolute path in other words, of no use where the adapter is moved to.
    """
    start = os.path.realpath(folder)
    return "" if os.path.commonpath([place, start]) == os.sep else os.path.relpath(place, start)


def open_part(part: FrozenPart, load: Callable[[str, bool], Loaded]) -> Loaded:
    """What `load(place, own_code)` gives for the first place that holds the model.

    `load` raises OtherModel for one that does not; its second argument is whether code that comes with the model may be
    run, if that was asked for. UserError if no place does: what was looked for, where, and the flags to give.
    """
    refusals: list[UserError] = []
    for place in _stated(part):
        try:
            return load(place, True)
        except (ModelNotFound, OtherModel) as error:
            refusals.append(error)
    for place in islice(_similar(part), MOST_LOADED):
        try:
            loaded = load(str(place), False)
        except UserError:
            continue
        shown = os.path.relpath(place) if place.is_relative_to(Path.cwd()) else place
        print(
            f"slam-asr: {part.what} {part.source!r} is not there; using {shown}, which holds the same weights",
            file=sys.stderr,
        )
        return loaded
    raise _nowhere(part, refusals)


def _stated(part: FrozenPart) -> list[str]:
    """Places that adapter.json names. A hub is not asked for what is known to have been a folder."""
    beside = part.folder / part.path
    folders = [part.source] if os.path.isdir(os.path.expanduser(part.source)) else []
    if part.path and beside.is_dir() and not (folders and beside.samefile(os.path.expanduser(part.source))):
        folders.append(str(beside))
    likely = [folder for folder in folders if _can_be(part, Path(folder).expanduser())]
    return likely or folders or ([] if part.path else [part.source])


def _similar(part: FrozenPart) -> Iterator[Path]:
    """Folders that can be the model by their configuration, each once."""
    seen = {os.path.realpath(os.path.expanduser(place)) for place in _stated(part)}
    for folder in (*islice(_beside(part.folder), MOST_FOLDERS), *islice(_cached(), MOST_FOLDERS)):
        if _can_be(part, folder) and os.path.realpath(folder) not in seen:
            seen.add(os.path.realpath(folder))
            yield folder


def _beside(folder: Path) -> Iterator[Path]:
    """Folders below it and below its parents, except all of a file system or of other people's homes."""
    place = Path(os.path.realpath(folder))
    for parent in (place, *place.parents[:LEVELS]):
        if parent == parent.parent:
            return
        yield from _below(parent, DEPTH)
        if parent == Path.home():
            return


def _below(folder: Path, depth: int) -> Iterator[Path]:
    """Folders in it, by name, then those in them; hidden and unreadable ones are passed over."""
    try:
        inside = sorted(Path(e.path) for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))
    except OSError:
        return
    yield from inside
    if depth > 1:
        for one in inside:
            yield from _below(one, depth - 1)


def _cached() -> Iterator[Path]:
    """Models in the Hugging Face cache."""
    from huggingface_hub import constants

    yield from sorted(Path(constants.HF_HUB_CACHE).glob("models--*/snapshots/*"))


def _can_be(part: FrozenPart, folder: Path) -> bool:
    """Whether it holds weights, and a config.json of the fingerprint's family, width and depth."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        weights = any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))
    except (OSError, ValueError):
        return False
    if not isinstance(config, dict) or not weights:
        return False
    text = config.get("text_config")
    configs = [config, text] if isinstance(text, dict) else [config]
    widths = {one[name] for one in configs for name in WIDTHS if isinstance(one.get(name), int)}
    layer, layers = part.fingerprint.get("layer"), config.get("num_hidden_layers")
    return (
        part.fingerprint.get("family") in [one.get("model_type") for one in configs]
        and (not widths or part.fingerprint.get("dim") in widths)
        and not (isinstance(layer, int) and isinstance(layers, int) and layers < layer)
    )


def _nowhere(part: FrozenPart, refusals: list[UserError]) -> UserError:
    from huggingface_hub import constants

    other = next((refusal for refusal in refusals if isinstance(refusal, OtherModel)), None)
    if other is not None:
        return other
    stated = [repr(part.source), *([repr(os.path.normpath(part.folder / part.path))] if part.path else [])]
    return ModelNotFound(
        f"the {part.what} of this adapter ({part.fingerprint.get('family')}, weights "
        f"{str(part.fingerprint.get('weights'))[:12]} ...) is not at {' or '.join(stated)}, in no folder near "
        f"{str(part.folder)!r} and not in {constants.HF_HUB_CACHE}; say where encoder and LLM lie with --encoder and "
        f"--llm{f' ({refusals[0]})' if refusals else ''}"
    )
