"""What `slam-asr run` was given, checked before anything is made, and run.json, which keeps it in DIR."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.addresses import is_remote
from data_prep.durable import canonical_json, write_durably
from model.errors import UserError, require_known

if TYPE_CHECKING:
    from train.recipe.config import Config

RUN_JSON, FORMAT = "run.json", 1
OWN_KEYS = {
    "model.encoder": "--encoder",
    "model.llm": "--llm",
    "data.train": "CORPUS",
    "data.dev": "--dev",
    "data.write_features": "--features",
    "run.dir": "--out",
}
"""Keys of the recipe that arguments of this verb set."""


@dataclass(frozen=True)
class Request:
    """The arguments of `slam-asr run`, and the paths in DIR that follow from them."""

    corpora: dict[str, str]
    """{name: folder, file or address as given} of what is imported and built: train, dev where given, the tests."""
    tests: tuple[str, ...]
    """Names of the test corpora."""
    encoder: str
    llm: str
    out: Path
    """DIR."""
    ranks: int
    recipe: str | None
    features: str
    importer: str | None
    import_options: tuple[str, ...]
    build_options: tuple[str, ...]
    overrides: tuple[str, ...]
    allow_changes: bool

    @property
    def run(self) -> Path:
        """The run folder of the training."""
        return self.out / "train"

    @property
    def recipe_file(self) -> Path:
        return Path(self.recipe) if self.recipe else self.out / "recipe.yaml"

    def manifest(self, name: str) -> Path:
        return self.out / "manifests" / f"{name}.jsonl"

    def shards(self, name: str) -> Path:
        return self.out / "shards" / name

    def identity(self) -> dict[str, Any]:
        """The fields of run.json: what may not change from one start to the next, but for tests that are added."""
        corpora = {name: _resolved(source) for name, source in self.corpora.items()}
        return {
            "corpus": corpora["train"],
            "dev": corpora.get("dev"),
            "encoder": _resolved(self.encoder),
            "llm": _resolved(self.llm),
            "recipe": _resolved(self.recipe) if self.recipe else None,
            "importer": self.importer,
            "build_options": [*self.import_options, *self.build_options],
            "tests": {name: corpora[name] for name in self.tests},
        }


def _resolved(source: str) -> str:
    """The same for the same file, folder, address or id, however it was typed."""
    path = Path(source).expanduser()
    return source if is_remote(source) or not path.exists() else str(path.resolve())


def read_request(args: argparse.Namespace) -> Request:
    """UserError for a corpus that is not there or given twice, a key that this verb sets, unknown options ..."""
    from data_prep.importers import IMPORTERS
    from launch.deepspeed.local import ranks_here

    if args.importer is not None:
        require_known("importer", args.importer, IMPORTERS)
    _require_corpora(args)
    for override in args.overrides:
        key = override.partition("=")[0]
        if key in OWN_KEYS:
            raise UserError(f"{override}: {key} is decided by {OWN_KEYS[key]} of `slam-asr run`; leave it out")
    import_options, build_options = _divided_options(args.build_options)
    tests = _named_tests(args.test)
    request = Request(
        corpora={"train": args.corpus, **({"dev": args.dev} if args.dev else {}), **tests},
        tests=tuple(tests),
        encoder=args.encoder or "",
        llm=args.llm or "",
        out=args.out,
        ranks=ranks_here(args.ranks),
        recipe=args.recipe,
        features=args.features,
        importer=args.importer,
        import_options=import_options,
        build_options=build_options,
        overrides=tuple(args.overrides),
        allow_changes=args.allow_changes,
    )
    missing = [flag for flag in ("encoder", "llm") if not getattr(request, flag)]
    if missing and not request.recipe:
        raise UserError(f"--{missing[0]} is missing: a Hugging Face id or a folder, or give a --recipe that names it")
    config = config_of(request)
    if config.data.write_features:
        raise UserError(f"{request.recipe} has data.write_features; leave it out, --features decides on caching here")
    return replace(request, encoder=config.model.encoder, llm=config.model.llm)


def config_of(request: Request) -> Config:
    """The recipe to train by; while it is not written yet, the one for little data."""
    from launch.recipes.text import Wanted, recipe_text
    from train.recipe.config import Config
    from train.recipe.kinds import validated
    from train.recipe.yaml import lay_over, read_yaml, read_yaml_file

    if request.recipe or request.recipe_file.exists():
        document = read_yaml_file(request.recipe_file)
    else:
        train, dev = (str(request.shards(name)) for name in ("train", "dev"))
        models = request.encoder or "?", request.llm or "?"
        wanted = Wanted((train,), (dev,), *models, 1, 1.0, str(request.run), window=_window(request))
        document = read_yaml(recipe_text(wanted), "the recipe")
    models = {"model.encoder": request.encoder, "model.llm": request.llm}
    given = [f"{key}={value}" for key, value in models.items() if value]
    return validated(Config, lay_over(document, [*given, *request.overrides]), "the recipe")


def _window(request: Request) -> str | None:
    """The model.encoder_window that `recipe new` will choose for the shards, so that frames are cached with it."""
    from data_prep.shards.index import INDEX_NAME
    from data_prep.shards.opening import read_index
    from launch.recipes.text import window_of
    from model.skeleton import read_config

    if not (request.shards("train") / INDEX_NAME).exists():
        return None
    index = read_index(request.shards("train"))
    trusted = "model.trust_remote_code=true" in request.overrides
    return window_of(read_config("encoder", request.encoder, trusted).model_type, index.seconds / max(1, len(index)))


def _require_corpora(args: argparse.Namespace) -> None:
    given = [("CORPUS", args.corpus), *([("--dev", args.dev)] if args.dev else []), *(("--test", x) for x in args.test)]
    seen: dict[str, str] = {}
    for flag, source in given:
        path = Path(source)
        place = source if is_remote(source) else str(path.resolve())
        if place in seen:
            advice = "leave it out: dev is scored by default" if seen[place] == "--dev" else "give another"
            raise UserError(f"{flag} {source} is {seen[place]} itself; {advice}")
        seen[place] = flag
        if is_remote(source):
            continue
        if not source or not path.exists():
            raise UserError(f"{flag} {source!r} is not there; give a corpus folder, a manifest or a table")
        if not any(path.iterdir()) if path.is_dir() else path.is_file() and not path.stat().st_size:
            kind = "folder" if path.is_dir() else "file"
            raise UserError(f"{flag} {source} is an empty {kind}; give recordings with their transcripts, or a table")
        if path.is_dir() and args.out.resolve().is_relative_to(path.resolve()):  # it would be read with the corpus
            raise UserError(f"--out {args.out} lies in the corpus {source}; give a folder outside of it")


def _named_tests(sources: list[str]) -> dict[str, str]:
    """Each test under the name of its file or folder, with its parent's before it where that is taken."""
    tests: dict[str, str] = {}
    for source in sources:
        path = Path(source if is_remote(source) else Path(source).resolve())
        name = path.name.partition(".")[0] if is_remote(source) or path.is_file() else path.name
        names = [name, f"{path.parent.name}-{name}", *(f"{name}-{number}" for number in range(2, len(sources) + 2))]
        clean = (re.sub(r"[^A-Za-z0-9._-]", "_", name) for name in names)
        tests[next(name for name in clean if name.strip(".") and name not in {"train", "dev", *tests})] = source
    return tests


def _divided_options(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The options of `--build-options` that the import takes, and those left for the build, which reads a manifest. The
    build gets --allow-pipes, --allow-empty and --max-bad too. UserError for what `prep build` does not know."""
    from launch import stages
    from launch.prep import corpus

    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"--build-options {text!r}: {str(error).lower()}; close the quotes") from None
    stages.build("CORPUS", "OUT", words)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    corpus.add_arguments(parser)
    taken, rest = parser.parse_known_args(words)
    left, importing = list(rest), []
    for word in words:  # `rest` is in the order of the words
        if left and word == left[0]:
            left.pop(0)
        else:
            importing.append(word)
    both = [f"--{flag}" for flag in ("allow-pipes", "allow-empty") if getattr(taken, flag.replace("-", "_"))]
    both += ["--max-bad", f"{taken.max_bad:g}"] if taken.max_bad != parser.get_default("max_bad") else []
    if split := {"--split", "--split-by"} & {word.partition("=")[0] for word in rest}:
        raise UserError(f"--build-options: {min(split)} is decided here; give --dev, or let a part be taken")
    return tuple(importing), (*rest, *both)


def is_begun(request: Request) -> bool:
    """Whether DIR holds work of this request already. UserError if it holds anything else."""
    out = request.out
    if not out.exists():
        return False
    if not out.is_dir():
        raise UserError(f"--out {out} is a file; give a folder")
    if not (out / RUN_JSON).exists():
        if names := sorted(entry.name for entry in out.iterdir()):
            raise UserError(f"--out {out} is not empty ({names[0]}) and not of `slam-asr run`; give a new folder")
        return False
    before, now = read_run_json(out), request.identity()
    if not request.manifest("train").exists():
        return False
    tests, tests_now = before.pop("tests"), now.pop("tests")
    flags = {name: "CORPUS" if name == "corpus" else f"--{name.replace('_', '-')}" for name in now}
    compared = [(flags[name], before.get(name), value) for name, value in now.items()]
    compared += [(f"--test {name}", tests.get(name, source), source) for name, source in tests_now.items()]
    if request.features != "auto" and before.get("cached") is not None:
        compared += [("--features", "yes" if before["cached"] else "no", request.features)]
    for flag, *values in compared:
        if values[0] != values[1]:
            was, is_now = (" ".join(value) if isinstance(value, list) else value for value in values)
            raise UserError(
                f"--out {out} was made with {flag} {was or 'not given'}, now {is_now or 'not given'}; give another"
            )
    return True


def read_run_json(out: Path) -> dict[str, Any]:
    """UserError if it cannot be read."""
    path = out / RUN_JSON
    try:
        document = json.loads(path.read_text("utf-8"))
        if document["format"] == FORMAT and isinstance(document["tests"], dict):
            return document
        error = f"format {document['format']}"
    except (OSError, ValueError, KeyError, TypeError) as wrong:
        error = wrong
    raise UserError(f"{path} is not a file of this version of `slam-asr run` ({error}); give a new folder")


def write_run_json(request: Request, cached: bool | None = None) -> None:
    """`cached` is whether the encoder's frames are cached, once that is decided."""
    path, identity = request.out / RUN_JSON, request.identity()
    before = read_run_json(request.out) if path.exists() and request.manifest("train").exists() else {}
    identity["tests"] = {**before.get("tests", {}), **identity["tests"]}
    document = {"format": FORMAT, **identity, "cached": before.get("cached") if cached is None else cached}
    write_durably(path, canonical_json(document, indent=1) + b"\n")
