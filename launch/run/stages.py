"""Which commands a request means, stage after stage; each stage's are known once those before it are done."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from data_prep.figures import in_units
from data_prep.paths import free_bytes
from data_prep.shards.index import INDEX_NAME
from data_prep.shards.opening import read_index
from data_prep.utterance import read_rows
from launch import stages as commands
from launch.deepspeed.local import visible_gpus
from launch.run import folder
from launch.run.request import Corpus, Request, config_of
from launch.run.scores import is_scored
from launch.score_files import HYPOTHESES, SCORE
from model.errors import UserError
from model.sample_rate import SAMPLE_RATE

LEAST_TO_DIVIDE = 10  # utterances: of fewer no part is set apart to evaluate on
MANY = 10_000  # utterances, of which a fiftieth is enough to evaluate on
MOST_CACHED_BYTES = 100e9
MOST_CACHED_SHARE = 0.5  # of what is free on the disk
BYTES_A_VALUE = 2  # float16, what `prep features` writes by default


@dataclass(frozen=True)
class Command:
    """One command of a stage."""

    words: tuple[str, ...]
    """As typed."""
    done: str = ""
    """What is there that it would make; empty where it is to be run."""
    replaces: tuple[Path, ...] = ()
    """Files of an earlier checkpoint, which go before it is run."""

    def __str__(self) -> str:
        return shlex.join(self.words)


@dataclass(frozen=True)
class Stage:
    """A step of the way."""

    name: str
    what: str
    commands: Callable[[Request], Iterator[Command]]


def stages(request: Request) -> list[Stage]:
    """Of this request, in order."""
    divided = "" if request.dev else ", a part of it set apart to evaluate on"
    written = [] if request.recipe else [Stage("recipe", "written for these hours and this LLM", _recipe)]
    return [
        Stage("import", "each corpus becomes a manifest; its first utterances are shown", _imports),
        Stage("build", f"recordings become shards{divided}", _builds),
        Stage("features", "the frozen encoder runs once, where that pays", _features),
        *written,
        Stage("train", "the adapter learns", _train),
        Stage("score", "word errors, counted over every utterance", _scores),
    ]


def _imports(request: Request) -> Iterator[Command]:
    for corpus in request.corpora:
        out = request.manifest(corpus)
        importer = request.importer or "auto"
        words = ("prep", "import", importer, corpus.source, "--out", str(out), *request.import_options)
        yield _slam_asr(words, out)


def _builds(request: Request) -> Iterator[Command]:
    train = request.manifest(request.train)
    if request.dev is None:
        out = request.out / "shards"
        share = _share_to_set_apart(train)
        options = ["--split", f"train={1 - share:g},dev={share:g}", "--split-by", "balanced"]
        words = commands.build(str(train), str(out), [*options, *request.build_options])
        yield _slam_asr(words, *(out / name / INDEX_NAME for name in ("train", "dev")))
    for corpus in request.corpora:
        if corpus is not request.train or request.dev is not None:
            out = request.shards(corpus.name)
            words = commands.build(str(request.manifest(corpus)), str(out), request.build_options)
            yield _slam_asr(words, out / INDEX_NAME)


def _features(request: Request) -> Iterator[Command]:
    if not caches(request):
        return
    for name in ("train", "dev"):
        out = request.frames(name)
        words = commands.features(str(request.shards(name)), str(out), config_of(request).model)
        started = _slam_asr(words, out / INDEX_NAME)
        if 1 < request.ranks <= visible_gpus():
            several = ("torchrun", "--nproc_per_node", str(request.ranks), "-m", "launch", *words)
            started = Command(several, started.done)
        yield started


def _recipe(request: Request) -> Iterator[Command]:
    words = ["recipe", "new", "--train", _data(request, "train"), "--dev", _data(request, "dev")]
    words += ["--encoder", request.encoder, "--llm", request.llm, "--run-dir", str(request.run)]
    words += ["--gpus", str(request.ranks)] if request.ranks > 1 else []
    words += ["--trust-remote-code"] if config_of(request).model.trust_remote_code else []
    if not request.shards("train").exists():
        words += ["--hours", "HOURS"]  # shown before there is anything to count
    yield _slam_asr([*words, "--out", str(request.recipe_file)], request.recipe_file)


def _train(request: Request) -> Iterator[Command]:
    words = [str(request.recipe_file), *_where(request), *request.overrides]
    words += ["--allow-changes"] if request.allow_changes else []
    if request.ranks == 1:
        yield Command(("python", "-m", "train", *words))
    else:
        yield Command(("slam-asr", "launch", "local", *words, "--ranks", str(request.ranks)))


def _scores(request: Request) -> Iterator[Command]:
    trusts = ["--trust-remote-code"] if config_of(request).model.trust_remote_code else []
    for corpus in scored(request):
        by = "speaker" if _names_speakers(request, corpus) else ""
        shards, out = request.shards(corpus.name), request.scores(corpus.name)
        words = commands.score(str(request.run), str(shards), str(out), [*(["--by", by] if by else []), *trusts])
        done = f"{out} is of this checkpoint" if is_scored(request.run, shards, out, by) else ""
        yield Command(("slam-asr", *words), done, tuple(out / name for name in (SCORE, HYPOTHESES)))


def scored(request: Request) -> tuple[Corpus, ...]:
    """What is scored at the end."""
    return request.tests or (request.dev or Corpus("dev", request.train.source),)


def caches(request: Request) -> bool:
    """Whether the encoder's frames are cached: as it was decided at the first start, as asked, or by what pays."""
    if (before := _decided(request)) is not None:
        return before
    if request.features != "auto":
        return request.features == "yes"
    config = config_of(request)
    if config.augment.needs_audio or (config.optim.epochs is not None and config.optim.epochs <= 1):
        return False
    if not (request.shards("train") / INDEX_NAME).exists():
        return True  # a dry run: as far as is known
    return _frame_bytes(request) <= min(MOST_CACHED_BYTES, MOST_CACHED_SHARE * free_bytes(request.out))


def said_of_caching(request: Request) -> str:
    """Why frames are not cached."""
    if request.features == "no":
        return "--features no"
    config = config_of(request)
    if config.augment.needs_audio:
        return "augment changes recordings, so that an epoch's frames are no other's"
    if config.optim.epochs is not None and config.optim.epochs <= 1:
        return f"frames would be used in {config.optim.epochs:g} epochs only"
    free = in_units(free_bytes(request.out))
    return f"they take {in_units(_frame_bytes(request))}, more than {MOST_CACHED_SHARE:g} of {free} free, or 100 GB"


def _decided(request: Request) -> bool | None:
    """At an earlier start; None if this is the first."""
    return folder.read(request.out).get("cached") if (request.out / folder.NAME).exists() else None


def _frame_bytes(request: Request) -> int:
    """Of all frames of train and dev, about."""
    from model.skeleton import read_config

    model = config_of(request).model
    encoder = read_config("encoder", model.encoder, model.trust_remote_code)
    frames_a_second = SAMPLE_RATE / math.prod(encoder.conv_stride)
    seconds = sum(read_index(request.shards(name)).seconds for name in ("train", "dev"))
    return int(seconds * frames_a_second * encoder.hidden_size * BYTES_A_VALUE)


def _where(request: Request) -> list[str]:
    """Overrides of a person's own recipe: where this verb has put things, as far as the recipe says otherwise."""
    if not request.recipe:
        return []
    config = config_of(request)
    stated = {"data.train": config.data.train, "data.dev": config.data.dev, "run.dir": config.run.dir}
    here = {name: _data(request, name.partition(".")[2]) for name in ("data.train", "data.dev")}
    here |= {"run.dir": str(request.run)}
    given = [f"{key}={value}" for key, value in here.items() if stated[key] not in (value, (value,))]
    return [*_models(request), *given]


def _models(request: Request) -> list[str]:
    """Encoder and LLM, where they are not the recipe's own."""
    from train.recipe.config import load_config

    own = load_config(request.recipe_file, request.overrides).model
    pairs = (("encoder", request.encoder, own.encoder), ("llm", request.llm, own.llm))
    return [f"model.{name}={value}" for name, value, stated in pairs if value != stated]


def _data(request: Request, name: str) -> str:
    return str(request.frames(name) if caches(request) else request.shards(name))


def _share_to_set_apart(manifest: Path) -> float:
    """Of the corpus, to evaluate on. UserError where it is too small for that."""
    utterances = sum(1 for _ in read_rows(manifest)) if manifest.exists() else MANY
    if utterances < LEAST_TO_DIVIDE:
        raise UserError(
            f"{manifest} has {utterances} utterances, too few to set some apart to evaluate on "
            f"({LEAST_TO_DIVIDE}); give --dev CORPUS"
        )
    return 0.1 if utterances <= MANY else 0.02


def _names_speakers(request: Request, corpus: Corpus) -> bool:
    source = request.train if corpus.name == "dev" and request.dev is None else corpus
    manifest = request.manifest(source)
    return not manifest.exists() or any(row.get("speaker") for _, row in read_rows(manifest))


def _slam_asr(words: list[str] | tuple[str, ...], *made: Path) -> Command:
    """A command, done where all that it makes is there."""
    there = all(path.exists() for path in made)
    return Command(("slam-asr", *words), f"{made[0]} is there" if there else "")
