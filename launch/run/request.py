"""What `slam-asr run` was asked, checked before anything is made."""

from __future__ import annotations

import argparse
import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.addresses import is_remote
from model.errors import UserError, require_known

if TYPE_CHECKING:
    from train.recipe.config import Config

DECIDED = {
    "model.encoder": "--encoder",
    "model.llm": "--llm",
    "data.train": "CORPUS",
    "data.dev": "--dev",
    "data.write_features": "--features",
    "run.dir": "--out",
}
"""Keys of a recipe that arguments of this verb decide."""


@dataclass(frozen=True)
class Corpus:
    """One that is imported and built, under a name of its own in DIR."""

    name: str
    source: str
    """As it was given."""


@dataclass(frozen=True)
class Request:
    """What was asked."""

    train: Corpus
    dev: Corpus | None
    tests: tuple[Corpus, ...]
    encoder: str
    llm: str
    out: Path
    ranks: int
    recipe: str | None
    features: str
    importer: str | None
    import_options: tuple[str, ...]
    build_options: tuple[str, ...]
    overrides: tuple[str, ...]
    allow_changes: bool

    @property
    def corpora(self) -> list[Corpus]:
        """All of them, the one to train on first."""
        return [self.train, *([self.dev] if self.dev else []), *self.tests]

    @property
    def run(self) -> Path:
        """The folder of the training."""
        return self.out / "train"

    @property
    def recipe_file(self) -> Path:
        """What is trained by."""
        return Path(self.recipe) if self.recipe else self.out / "recipe.yaml"

    def manifest(self, corpus: Corpus) -> Path:
        return self.out / "manifests" / f"{corpus.name}.jsonl"

    def shards(self, name: str) -> Path:
        return self.out / "shards" / name

    def frames(self, name: str) -> Path:
        return self.out / "features" / name

    def scores(self, name: str) -> Path:
        return self.out / "scores" / name


def read_request(args: argparse.Namespace) -> Request:
    """UserError for what cannot be: a corpus that is not there, the same one twice, a key that is decided here ..."""
    from data_prep.importers import IMPORTERS
    from launch.deepspeed.local import ranks_here

    if args.importer is not None:
        require_known("importer", args.importer, IMPORTERS)
    _require_corpora(args)
    _require_outside(args)
    for override in args.overrides:
        key = override.partition("=")[0]
        if key in DECIDED:
            raise UserError(f"{override}: {key} is decided by {DECIDED[key]} of `slam-asr run`; leave it out")
    import_options, build_options = _options(args.build_options)
    request = Request(
        train=Corpus("train", args.corpus),
        dev=Corpus("dev", args.dev) if args.dev else None,
        tests=_named(args.test),
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
    return _with_models(request)


def config_of(request: Request) -> Config:
    """The recipe that is trained by; one that is not written yet as it would be for little data."""
    from launch.recipes.text import Wanted, recipe_text
    from train.recipe.config import Config
    from train.recipe.validation import validated
    from train.recipe.yaml import lay_over, read_yaml, read_yaml_file

    if request.recipe or request.recipe_file.exists():
        tree = read_yaml_file(request.recipe_file)
    else:
        train, dev = (str(request.shards(name)) for name in ("train", "dev"))
        wanted = Wanted((train,), (dev,), request.encoder or "?", request.llm or "?", 1, 1.0, str(request.run))
        tree = read_yaml(recipe_text(wanted), "the recipe")
    models = {"model.encoder": request.encoder, "model.llm": request.llm}
    given = [f"{key}={value}" for key, value in models.items() if value]
    return validated(Config, lay_over(tree, [*given, *request.overrides]), "the recipe")


def _with_models(request: Request) -> Request:
    """The same, its encoder and LLM those of the recipe where none are given."""
    missing = [flag for flag in ("encoder", "llm") if not getattr(request, flag)]
    if missing and not request.recipe:
        raise UserError(f"--{missing[0]} is missing: a Hugging Face id or a folder, or give a --recipe that names it")
    config = config_of(request)
    if config.data.write_features:
        raise UserError(f"{request.recipe} has data.write_features; leave it out, --features decides on caching here")
    return replace(request, encoder=config.model.encoder, llm=config.model.llm)


def _require_corpora(args: argparse.Namespace) -> None:
    given = [("CORPUS", args.corpus), *([("--dev", args.dev)] if args.dev else []), *(("--test", x) for x in args.test)]
    seen: dict[str, str] = {}
    for flag, source in given:
        place = source if is_remote(source) else str(Path(source).resolve())
        if not is_remote(source):
            _require_some(flag, source)
        if place in seen:
            least = "leave it out: dev is scored by default" if seen[place] == "--dev" else "give another"
            raise UserError(f"{flag} {source} is {seen[place]} itself; {least}")
        seen[place] = flag


def _require_some(flag: str, source: str) -> None:
    path = Path(source)
    if not source or not path.exists():
        raise UserError(f"{flag} {source!r} is not there; give a corpus folder, a manifest or a table")
    if path.is_dir() and not any(path.iterdir()):
        raise UserError(f"{flag} {source} is an empty folder; give one with recordings and their transcripts")
    if path.is_file() and not path.stat().st_size:
        raise UserError(f"{flag} {source} is an empty file; give a manifest or a table with a line for each utterance")


def _require_outside(args: argparse.Namespace) -> None:
    """What is made must not be read as part of a corpus when the same command is given again."""
    out = args.out.resolve()
    for source in (args.corpus, args.dev, *args.test):
        folder = Path(source).resolve() if source and not is_remote(source) else None
        if folder is not None and folder.is_dir() and out.is_relative_to(folder):
            raise UserError(f"--out {args.out} lies in the corpus {source}; give a folder outside of it")


def _named(sources: list[str]) -> tuple[Corpus, ...]:
    """Each test under the name of its file or folder, with its parent's before it where that is taken."""
    corpora: dict[str, Corpus] = {}
    for source in sources:
        path = Path(source if is_remote(source) else Path(source).resolve())
        name = path.name.partition(".")[0] if is_remote(source) or path.is_file() else path.name
        names = [name, f"{path.parent.name}-{name}", *(f"{name}-{number}" for number in range(2, len(sources) + 2))]
        clean = (re.sub(r"[^A-Za-z0-9._-]", "_", name) for name in names)
        free = next(name for name in clean if name.strip(".") and name not in {"train", "dev", *corpora})
        corpora[free] = Corpus(free, source)
    return tuple(corpora.values())


def _options(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of `--build-options`, those that the import takes and those that are left for the build, which reads a manifest.

    The build gets --allow-pipes and --max-bad too. UserError for what `prep build` does not know.
    """
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
    left, ours = list(rest), []
    for word in words:  # those that are left are in their order
        if left and word == left[0]:
            left.pop(0)
        else:
            ours.append(word)
    both = ["--allow-pipes"] if taken.allow_pipes else []
    both += ["--max-bad", f"{taken.max_bad:g}"] if taken.max_bad != parser.get_default("max_bad") else []
    split = {"--split", "--split-by"} & {word.partition("=")[0] for word in rest}
    if split:
        raise UserError(f"--build-options: {min(split)} is decided here; give --dev, or let a part be taken")
    return tuple(ours), (*rest, *both)
