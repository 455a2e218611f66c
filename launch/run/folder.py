"""DIR of `slam-asr run`: one process at a time, and run.json, which remembers what it was made for."""

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
FLAGS = {"corpus": "CORPUS", "importer": "--importer", "build_options": "--build-options"}
"""How what is remembered is called on the command line, where not by its own name."""


@contextmanager
def claim(out: Path) -> Iterator[None]:
    """Makes `out`, and holds it for this process. TransientError if another one is at work there."""
    at_work = f"another `slam-asr run` is at work in {out}; wait for it, or give another"
    with locked_folder(out, lambda: TransientError(at_work)):
        yield


def require_ours(request: Request) -> bool:
    """Whether `out` is of such a request already. UserError if it is somebody else's, or of another one."""
    out = request.out
    if not out.exists():
        return False
    if not out.is_dir():
        raise UserError(f"--out {out} is a file; give a folder")
    path = out / NAME
    if not path.exists():
        there = sorted(entry.name for entry in out.iterdir())
        if there:
            raise UserError(
                f"--out {out} is not empty ({there[0]}) and was not made by `slam-asr run`; give a new folder"
            )
        return False
    before, now = read(out), remembered(request)
    if not request.manifest(request.train).exists():
        return False  # nothing was made of it yet
    for name in now:
        if name != "tests" and before.get(name) != now[name]:
            raise _another(out, FLAGS.get(name, f"--{name}"), before.get(name), now[name])
    for name, source in now["tests"].items():
        if before["tests"].get(name, source) != source:
            raise _another(out, f"--test {name}", before["tests"][name], source)
    cached = before.get("cached")
    if request.features != "auto" and cached is not None and cached != (request.features == "yes"):
        raise _another(out, "--features", "yes" if cached else "no", request.features)
    return True


def remembered(request: Request) -> dict[str, Any]:
    """What may not change from one start to the next, as run.json has it; tests may be added."""
    return {
        "corpus": _place(request.train.source),
        "dev": _place(request.dev.source) if request.dev else None,
        "encoder": _place(request.encoder),
        "llm": _place(request.llm),
        "recipe": _place(request.recipe) if request.recipe else None,
        "importer": request.importer,
        "build_options": [*request.import_options, *request.build_options],
        "tests": {test.name: _place(test.source) for test in request.tests},
    }


def read(out: Path) -> dict[str, Any]:
    """run.json; UserError if it is none."""
    path = out / NAME
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; give a new folder") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT or not isinstance(found.get("tests"), dict):
        raise UserError(f"{path} was not written by this version of `slam-asr run`; give a new folder")
    return found


def remember(request: Request, cached: bool | None = None) -> None:
    """Writes run.json; `cached` is whether frames are, once that is decided."""
    path = request.out / NAME
    before = read(request.out) if path.exists() and request.manifest(request.train).exists() else {}
    tests = {**(before.get("tests") or {}), **remembered(request)["tests"]}
    kept = before.get("cached") if cached is None else cached
    document = {"format": FORMAT, **remembered(request), "tests": tests, "cached": kept}
    write_durably(path, canonical_json(document, indent=1) + b"\n")


def _place(source: str) -> str:
    """What is the same for the same file, folder, address or id, however it was typed."""
    path = Path(source).expanduser()
    return source if is_remote(source) or not path.exists() else str(path.resolve())


def _another(out: Path, flag: str, before: Any, now: Any) -> UserError:
    was, is_now = (" ".join(x) if isinstance(x, list) else x for x in (before, now))
    return UserError(
        f"--out {out} was made with {flag} {was or 'not given'}, now {is_now or 'not given'}; give another"
    )
