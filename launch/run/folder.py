"""DIR of `slam-asr run`: one process at a time, and run.json, which keeps what it was made from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_prep.addresses import is_remote
from data_prep.durable import canonical_json, write_durably
from data_prep.locks import locked_folder
from launch.run.request import Request
from model.errors import TransientError, UserError

NAME = "run.json"
FORMAT = 1
FLAGS = {"corpus": "CORPUS", "build_options": "--build-options"}
"""Fields of run.json whose command line flag is not --FIELD."""


@contextmanager
def claim(out: Path) -> Iterator[None]:
    """Makes `out`, and holds it for this process. TransientError if another one is at work there."""
    at_work = f"another `slam-asr run` is at work in {out}; wait for it, or give another"
    with locked_folder(out, lambda: TransientError(at_work)):
        yield


def is_begun(request: Request) -> bool:
    """Whether `out` holds work of this request already. UserError if it holds anything else."""
    out = request.out
    if not out.exists():
        return False
    if not out.is_dir():
        raise UserError(f"--out {out} is a file; give a folder")
    if not (out / NAME).exists():
        if names := sorted(entry.name for entry in out.iterdir()):
            raise UserError(
                f"--out {out} is not empty ({names[0]}) and was not made by `slam-asr run`; give a new folder"
            )
        return False
    before, now = read(out), _identity(request)
    if not request.manifest("train").exists():
        return False
    tests = before.pop("tests")
    compared = [(FLAGS.get(name, f"--{name}"), before.get(name), now[name]) for name in now if name != "tests"]
    compared += [(f"--test {name}", tests.get(name, source), source) for name, source in now["tests"].items()]
    if request.features != "auto" and before.get("cached") is not None:
        compared += [("--features", "yes" if before["cached"] else "no", request.features)]
    for flag, *values in compared:
        if values[0] != values[1]:
            was, is_now = (" ".join(value) if isinstance(value, list) else value for value in values)
            raise UserError(
                f"--out {out} was made with {flag} {was or 'not given'}, now {is_now or 'not given'}; give another"
            )
    return True


def read(out: Path) -> dict[str, Any]:
    """run.json; UserError if it cannot be read."""
    path = out / NAME
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; give a new folder") from None
    if (
        not isinstance(document, dict)
        or document.get("format") != FORMAT
        or not isinstance(document.get("tests"), dict)
    ):
        raise UserError(f"{path} was not written by this version of `slam-asr run`; give a new folder")
    return document


def write(request: Request, cached: bool | None = None) -> None:
    """Writes run.json; `cached` is whether frames are cached, once that is decided."""
    path, identity = request.out / NAME, _identity(request)
    before = read(request.out) if path.exists() and request.manifest("train").exists() else {}
    identity["tests"] = {**before.get("tests", {}), **identity["tests"]}
    document = {"format": FORMAT, **identity, "cached": before.get("cached") if cached is None else cached}
    write_durably(path, canonical_json(document, indent=1) + b"\n")


def _identity(request: Request) -> dict[str, Any]:
    """What may not change from one start to the next; tests may be added."""
    corpora = {name: _place(source) for name, source in request.corpora.items()}
    return {
        "corpus": corpora["train"],
        "dev": corpora.get("dev"),
        "encoder": _place(request.encoder),
        "llm": _place(request.llm),
        "recipe": _place(request.recipe) if request.recipe else None,
        "importer": request.importer,
        "build_options": [*request.import_options, *request.build_options],
        "tests": {name: corpora[name] for name in request.tests},
    }


def _place(source: str) -> str:
    """The same for the same file, folder, address or id, however it was typed."""
    path = Path(source).expanduser()
    return source if is_remote(source) or not path.exists() else str(path.resolve())
